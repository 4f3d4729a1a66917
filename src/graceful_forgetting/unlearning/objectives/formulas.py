"""The objectives, one formula each, and their names.

x is a piece of self-knowledge of n counted tokens, p the probability of one of them, L(x) the mean of −log p in nats,
L_base(x) that of the base model. An unlearning update minimises the mean of the formula over its samples.
"""

import math
from collections.abc import Callable
from inspect import isfunction

import torch
from torch import Tensor
from torch.nn import functional as F

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.runtime.own_code import fingerprint_code, imported
from graceful_forgetting.unlearning.objectives.objective import Need, Objective, UnlearningBatch


class GradientAscent(Objective):
    """−L(x): minimising it raises the loss of the self-knowledge without bound.

    Source: Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715, periodic
    unlearning ("the loss is negated").

    Relations: the further a sample is unlearned, the larger its gradient, so that long runs end in collapse. Prefer
    `BoundedTokens` unless the published form is what is wanted.
    """

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -batch.losses


class BoundedAscent(Objective):
    """−min(L(x), cap): ascent with no gradient for samples whose loss has reached the cap.

    Relations: equal to `GradientAscent` below the cap.

    Args:
        loss_cap: nats per token. The loss of a uniform guess is the logarithm of the vocabulary size.
    """

    def __init__(self, loss_cap: float) -> None:
        self.loss_cap = loss_cap

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -batch.losses.clamp(max=self.loss_cap)

    def active(self, batch: UnlearningBatch) -> Tensor:
        return batch.losses.detach() < self.loss_cap


class BoundedTokens(Objective):
    """−mean over counted tokens of min(−log p, cap): ascent with no gradient for tokens whose loss has reached the cap.

    Relations: `BoundedAscent` compares the mean over a sample with the cap, and so goes on raising the loss of a token
    that is forgotten while the others of its sample are not; equal to it for answers of one token.

    Args:
        loss_cap: nats. The loss of a uniform guess is the logarithm of the vocabulary size.
    """

    def __init__(self, loss_cap: float) -> None:
        self.loss_cap = loss_cap

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -batch.mean((-batch.log_probs).clamp(max=self.loss_cap))

    def active(self, batch: UnlearningBatch) -> Tensor:
        return batch.mean((-batch.log_probs.detach() < self.loss_cap).float())


class NPO(Objective):
    """(2/β) log(1 + (π(x) / π_base(x))^β), π the probability of the whole answer.

    With log π(x) = −n L(x) this is −(2/β) log σ(β n (L(x) − L_base(x))). It falls to 0 as the answer becomes
    improbable, and so does its gradient: how much a sample is unlearned fades with how much it has been.

    Source: Zhang, Lin, Bai, Mei, *Negative Preference Optimization: From Catastrophic Collapse to Effective
    Unlearning*, COLM 2024, arXiv 2404.05868, equation 3; β = 0.1 is the paper's.

    Relations: for β → 0 its gradient is that of ascent on the summed loss n L(x). `SimNPO` needs no reference.

    Args:
        beta: inverse temperature, above 0.
    """

    needs = frozenset({Need.BASE_LOSSES})

    def __init__(self, beta: float = 0.1) -> None:
        self.beta = beta

    def values(self, batch: UnlearningBatch) -> Tensor:
        assert batch.base_losses is not None
        log_ratio = -batch.lengths * (batch.losses - batch.base_losses)
        return -2 / self.beta * F.logsigmoid(-self.beta * log_ratio)


class SimNPO(Objective):
    """−(2/β) log σ(β L(x)): the length-normalised log-probability in place of the ratio to the base model.

    Source: Fan et al., *Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning*, arXiv
    2410.07163, with the reward margin γ = 0. β = 2.5 is this project's choice within the range of the paper's.

    Relations: `NPO` weighs a sample by how far it is from the base model; here a sample that was improbable from the
    start has little gradient.

    Args:
        beta: inverse temperature, above 0.
    """

    def __init__(self, beta: float = 2.5) -> None:
        self.beta = beta

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -2 / self.beta * F.logsigmoid(self.beta * batch.losses)


class Unlikelihood(Objective):
    """Mean over counted tokens of −log(1 − p), the token that ends the answer left out.

    Its gradient by the token's logit is p: largest where the model is sure, and gone where the token is forgotten. A
    model is surest of the end of its answers.

    Source: Welleck et al., *Neural Text Generation with Unlikelihood Training*, ICLR 2020, arXiv 1908.04319, equation
    4, with the sample's own tokens as negative candidates.

    Relations: bounded below by 0, where `GradientAscent` has no bound; works token by token, where `SimNPO` judges the
    answer as a whole.
    """

    unlearns_end = False

    def values(self, batch: UnlearningBatch) -> Tensor:
        # The constant keeps logarithm and gradient finite where p rounds to 1.
        return batch.mean(-torch.log(-torch.expm1(batch.log_probs) + 1e-6))


class Uniform(Objective):
    """Mean over counted positions of KL(U ‖ p) = −log V − (1/V) Σ_v log p(v), U uniform over the V tokens.

    That is cross-entropy with a uniform target, up to a constant. The other direction, KL(p ‖ U) = log V − H(p), has no
    gradient where the model is sure of its answer, as it is of answers that it decoded greedily.

    Source: the surrogate distribution of Heng & Soh, *Selective Amnesia*, NeurIPS 2023, arXiv 2305.10120, taken as
    uniform over tokens; Yuan et al., *A Closer Look at Machine Unlearning for Large Language Models*, arXiv 2410.08109,
    use the other direction ("maximizing entropy").

    Relations: the answer is not made improbable but as probable as any other, so that it stops at L(x) = log V.
    """

    needs = frozenset({Need.LOGITS})

    def values(self, batch: UnlearningBatch) -> Tensor:
        assert batch.logits is not None
        logits = batch.logits.float()
        mean_log_probability = logits.mean(dim=-1) - logits.logsumexp(dim=-1)
        return batch.mean(-math.log(logits.shape[-1]) - mean_log_probability)


class GradientDifference(Objective):
    """−L(x) + L(y), y a learning row: both in one update, with one optimizer and one clipping.

    Source: Liu, Liu, Stone, *Continual Learning and Private Unlearning*, CoLLAs 2022, arXiv 2203.12817; named so by
    Maini et al., *TOFU*, arXiv 2401.06121, with a retain set in place of learning rows.

    Relations: `GradientAscent` leaves learning to the updates in between. As unbounded as that.
    """

    needs = frozenset({Need.LEARNING})

    def values(self, batch: UnlearningBatch) -> Tensor:
        assert batch.learning_losses is not None
        return batch.learning_losses - batch.losses


# Each makes its objective from the settings of the run.
OBJECTIVES: dict[str, Callable[[LWFConfig], Objective]] = {
    "bounded_ascent": lambda args: BoundedAscent(args.unlearn_loss_cap),
    "bounded_tokens": lambda args: BoundedTokens(args.unlearn_loss_cap),
    "gradient_ascent": lambda _: GradientAscent(),
    "npo": lambda _: NPO(),
    "simnpo": lambda _: SimNPO(),
    "unlikelihood": lambda _: Unlikelihood(),
    "uniform": lambda _: Uniform(),
    "gradient_difference": lambda _: GradientDifference(),
}


def objective_of(args: LWFConfig) -> Objective:
    """The objective of these settings, by its name or by its import path `package.module:Name`.

    A path leads to a subclass of `Objective`, to an object of one, or to a function that makes one from the settings.

    Raises:
        ValueError: the path leads nowhere, or to something else.
    """
    name = args.unlearn_objective
    if name in OBJECTIVES:
        return OBJECTIVES[name](args)
    found = imported("unlearn_objective", name)
    if isinstance(found, type) and issubclass(found, Objective):
        found = found()
    elif isfunction(found):
        try:
            found = found(args)
        except Exception as error:  # a function of the user's may raise anything
            raise ValueError(f"unlearn_objective={name!r} fails on the settings: {error}") from error
    if not isinstance(found, Objective):
        raise ValueError(
            f"unlearn_objective={name!r} gives a {type(found).__name__}: it must be a subclass of Objective, an object "
            "of one, or a function that makes one from the settings"
        )
    return found


def objective_code(args: LWFConfig) -> dict[str, str]:
    """What a stage's key holds of an objective beside its name: the hash of the code of one's own; nothing for ours."""
    code = fingerprint_code(type(objective_of(args)), path=args.unlearn_objective)
    return {} if code is None else {"objective_code": code}
