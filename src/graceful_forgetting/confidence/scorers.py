"""The scorers, one formula each, and their names.

x is a piece of self-knowledge, L(x) its mean negative log-likelihood a token (nats; where losses alone are read and x
was chosen among options, −log of its share of their probability), g = ∇L(x) at θ_base, θ*_L and F mean and precision of
the learning task's posterior, Δ = θ_base − θ*_L, α the length of a step. Higher means forget first.
"""

import numpy
import torch
from torch import Tensor

from graceful_forgetting.confidence.forgetting_terms import ForgettingTerms
from graceful_forgetting.confidence.learning_gradient import LearningProducts
from graceful_forgetting.confidence.losses import Losses, ReferenceLosses, TokenFalls
from graceful_forgetting.confidence.pairwise import LeastCosines
from graceful_forgetting.confidence.scorer import Measured, Scorer
from graceful_forgetting.runtime.own_code import fingerprint_code, imported


class LWFScorer(Scorer):
    """Forgetting confidence: FC(x) = ½ Σ F Δ² − α ⟨F Δ, g⟩ + ½ α² Σ F g².

    How far one step on x takes the model from the learning task's posterior. Jiang et al., *Graceful Forgetting in
    Generative Language Models*, EMNLP 2025, arXiv 2505.19715.
    """

    reads = (ForgettingTerms,)

    def score(self, measured: Measured) -> Tensor:
        return measured["constant"] + measured["linear"] + measured["quadratic"]


class LinearScorer(Scorer):
    """−α ⟨F Δ, g⟩: to first order, what a step on x adds to the distance from the posterior's mean."""

    reads = (ForgettingTerms,)

    def score(self, measured: Measured) -> Tensor:
        return measured["linear"]


class OverlapScorer(Scorer):
    """½ α² Σ F g²: how much of a step on x falls on parameters that the learning task depends on."""

    reads = (ForgettingTerms,)

    def score(self, measured: Measured) -> Tensor:
        return measured["quadratic"]


class InterferenceScorer(Scorer):
    """L(x; θ*_L) − L(x; θ_base), nats per token: high where the learning task overwrites what the base model knows.

    Where answers were chosen among options, less what the answer alone does to it: see `shift_by_answer`.
    """

    reads = (ReferenceLosses,)

    def score(self, measured: Measured) -> Tensor:
        return measured["reference_loss"] - measured["loss"] - measured["answer_shift"]


class TokenInterferenceScorer(Scorer):
    """√(mean over tokens of max(0, √p − √p′)²), p of a token at θ_base and p′ at θ*_L; in [0, 1].

    The part of the Hellinger distance between what both models say next that falls on the token of the answer, where
    learning makes it less likely. A sentence says one fact in a token or two, and learning makes its form likelier at
    the same time: in the mean loss one hides the other. A token of which the model was unsure counts little, and none
    counts more than one. Where answers were chosen among options, `shift_by_answer` is taken off as in interference.
    """

    reads = (TokenFalls,)

    def score(self, measured: Measured) -> Tensor:
        shift = measured["answer_shift"]
        before, after = measured["loss"], measured["reference_loss"] - shift
        of_option = ((-before / 2).exp() - (-after / 2).exp()).clamp(min=0)
        return torch.where(shift == 0, measured["token_fall"].sqrt(), of_option)


class LossScorer(Scorer):
    """L(x; θ_base), nats per token: high where the base model is unsure of its own answer."""

    reads = (Losses,)

    def score(self, measured: Measured) -> Tensor:
        return measured["loss"]


class GradientConflictScorer(Scorer):
    """−⟨g, ḡ_L⟩, ḡ_L the mean gradient of the learning rows at θ_base.

    The rise of the learning loss for each unit of a descent step on x, to first order, and so its fall for a step of
    ascent. It needs no reference run. The inner product of gradients is the influence of Pruthi et al., *Estimating
    Training Data Influence by Tracing Gradient Descent*, NeurIPS 2020, arXiv 2002.08484, at one checkpoint and with the
    opposite sign.

    Relations: `GradientCosineScorer` is the same over both norms, and so ranks a sample that is hardly known like one
    that is; `LinearScorer` is the same with F Δ in place of ḡ_L.
    """

    reads = (LearningProducts,)

    def score(self, measured: Measured) -> Tensor:
        return -measured["learning_product"]


class GradientCosineScorer(Scorer):
    """−cos(g, ḡ_L), ḡ_L the mean gradient of the learning rows at θ_base: high where a step on x undoes learning.

    Xia et al., *LESS: Selecting Influential Data for Targeted Instruction Tuning*, ICML 2024, arXiv 2402.04333, select
    the data of highest cosine to learn from; here the lowest are unlearned. LESS takes Adam's update in place of the
    training gradient, projects both at random, and sums over checkpoints; none of that here. A gradient of 0 scores 0.
    """

    reads = (LearningProducts,)

    def score(self, measured: Measured) -> Tensor:
        return -measured["learning_cosine"]


class PairwiseConflictScorer(Scorer):
    """max_r −cos(g, ∇L(r)) over the single learning examples r, at θ_base, without the output layer.

    A fact contradicts one other fact, not the mean of a task: what conflicts with one learning example and is
    indifferent to the rest all but vanishes in `GradientCosineScorer`. The output layer is left out, since its gradient
    tells which token is wanted, whatever was asked; the layers before tell what was asked. A gradient of 0 scores 0.

    A maximum over examples, as in LESS, whose maximum is over subtasks, and of agreement in place of conflict.
    """

    reads = (LeastCosines,)

    def score(self, measured: Measured) -> Tensor:
        return -measured["least_cosine"]


class RandomScorer(Scorer):
    """Uniform in [0, 1), from the seed and the row's position: what the others are compared with."""

    def score(self, measured: Measured) -> Tensor:
        drawn = torch.from_numpy(numpy.random.default_rng(measured.seed).random(len(measured.usable)))
        return drawn.masked_fill(~measured.usable, torch.nan)


SCORERS: dict[str, Scorer] = {
    "lwf": LWFScorer(),
    "linear": LinearScorer(),
    "overlap": OverlapScorer(),
    "interference": InterferenceScorer(),
    "token_interference": TokenInterferenceScorer(),
    "loss": LossScorer(),
    "gradient_conflict": GradientConflictScorer(),
    "gradient_cosine": GradientCosineScorer(),
    "pairwise_conflict": PairwiseConflictScorer(),
    "random": RandomScorer(),
}


def scorer_named(name: str) -> Scorer:
    """A scorer by its name, or by its import path `package.module:Name`: a subclass of `Scorer`, or an object of one.

    Raises:
        ValueError: the path leads nowhere, or to something else.
    """
    if name in SCORERS:
        return SCORERS[name]
    found = imported("scorer", name)
    scorer = found() if isinstance(found, type) and issubclass(found, Scorer) else found
    if not isinstance(scorer, Scorer):
        raise ValueError(f"scorer={name!r} is a {type(found).__name__}: it must be a subclass of Scorer, or an object")
    return scorer


def scorer_code(name: str) -> dict[str, str]:
    """What a stage's key holds of a scorer beside its name: the hash of the code of one's own; nothing for ours."""
    scorer = scorer_named(name)
    code = fingerprint_code(type(scorer), *scorer.reads, path=name)
    return {} if code is None else {"scorer_code": code}
