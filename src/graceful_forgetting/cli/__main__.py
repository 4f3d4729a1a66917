"""`python -m graceful_forgetting.cli`, which accelerate's launcher starts in every process."""

import sys

from graceful_forgetting.cli import main

sys.exit(main())
