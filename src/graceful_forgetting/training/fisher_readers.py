"""Who reads the Fisher information of the learning task: the scorer or the baseline of a run, or neither."""

from graceful_forgetting.baselines import BASELINES
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.confidence.scorer import reads_fisher
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.config import LWFConfig


def needs_fisher(args: LWFConfig) -> bool:
    """Whether anything in a run with these settings reads it; of the posterior, the mean alone may be enough."""
    needs = frozenset() if args.baseline is None else BASELINES[args.baseline].needs
    return reads_fisher(SCORERS[args.confidence_scorer].needs) or BaselineNeed.POSTERIOR in needs
