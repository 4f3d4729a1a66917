"""Baselines that graceful forgetting is compared with: one file each, one line here.

Imports `posterior`, `confidence`, `gradients` and what is below them.
"""

from graceful_forgetting.baselines.afec import AFEC
from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, LearningBatch, Need
from graceful_forgetting.baselines.bss import BSS
from graceful_forgetting.baselines.ewc import EWC
from graceful_forgetting.baselines.f_learning import FLearning
from graceful_forgetting.baselines.l2_sp import L2SP
from graceful_forgetting.baselines.selective_amnesia import SelectiveAmnesia
from graceful_forgetting.baselines.shrink_perturb import ShrinkPerturb
from graceful_forgetting.baselines.token_forgetting import TokenForgetting
from graceful_forgetting.baselines.weight_line_search import WeightLineSearch
from graceful_forgetting.config import BaselineName

__all__ = ["BASELINES", "Baseline", "BaselineContext", "LearningBatch", "Need"]

BASELINES: dict[BaselineName, type[Baseline]] = {
    "bss": BSS,
    "l2_sp": L2SP,
    "ewc": EWC,
    "afec": AFEC,
    "shrink_perturb": ShrinkPerturb,
    "weight_line_search": WeightLineSearch,
    "f_learning": FLearning,
    "token_forgetting": TokenForgetting,
    "selective_amnesia": SelectiveAmnesia,
}
