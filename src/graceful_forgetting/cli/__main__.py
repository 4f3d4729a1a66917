"""`python -m graceful_forgetting.cli`, which accelerate's launcher starts in every process."""

import os
import sys

from graceful_forgetting.cli import main
from graceful_forgetting.cli.launching import LAUNCHER
from graceful_forgetting.runtime.termination import end_with_parent

# A process of a launch has nobody to work with when its launcher is killed.
if LAUNCHER in os.environ:
    end_with_parent(int(os.environ[LAUNCHER]))

sys.exit(main())
