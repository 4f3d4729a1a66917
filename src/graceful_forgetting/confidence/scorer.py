"""What a scorer is: a formula over measured values, and the declaration of what has to be measured for it."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor


class Need(Enum):
    """What a scorer reads.

    `POSTERIOR`: the learning task's posterior. `GRADIENTS`: ∇L(x), reduced against it. `FORWARD`: losses from
    forward passes, at θ_base and, together with `POSTERIOR`, at θ*_L. `LEARNING`: learning rows, whose mean gradient
    ∇L(x) is measured against; together with `PAIRS`, it is measured against the gradient of each of them.
    """

    POSTERIOR = "posterior"
    GRADIENTS = "gradients"
    FORWARD = "forward"
    LEARNING = "learning"
    PAIRS = "pairs"


@dataclass(frozen=True)
class Measured:
    """Measured values by row, (rows,) float64 on the CPU; NaN in rows without a counted token, or where not needed.

    Attributes:
        usable: whether a token counts in the row, (rows,) bool.
        constant: ½ Σ F Δ².
        loss: L(x) at θ_base.
        product: ⟨F Δ, g⟩ with g = ∇L(x) at θ_base.
        square: Σ F g².
        step_size: α; NaN where g is 0 and the step-size rule divides by it.
        reference_loss: L(x) at θ*_L.
        learning_product: ⟨∇L(x), ḡ⟩, ḡ the mean gradient of the learning rows, both at θ_base.
        learning_cosine: cosine of ∇L(x) and the mean gradient of the learning rows, both at θ_base.
        least_cosine: least cosine of ∇L(x) and the gradient of any single learning row, both at θ_base and of the
            parameters before the output layer.
        seed: for scorers that draw.
    """

    usable: Tensor
    constant: float
    loss: Tensor
    product: Tensor
    square: Tensor
    step_size: Tensor
    reference_loss: Tensor
    learning_product: Tensor
    learning_cosine: Tensor
    least_cosine: Tensor
    seed: int

    @property
    def linear(self) -> Tensor:
        """−α ⟨F Δ, g⟩; 0 where g is 0."""
        return -self.step_size.nan_to_num() * self.product

    @property
    def quadratic(self) -> Tensor:
        """½ α² Σ F g²; 0 where g is 0."""
        return 0.5 * self.step_size.nan_to_num() ** 2 * self.square

    @property
    def crossover(self) -> Tensor:
        """The α at which both terms are equally large; NaN where Σ F g² is 0."""
        return crossover(self.product, self.square)


def crossover(product: Tensor, square: Tensor) -> Tensor:
    """α× = 2 |⟨F Δ, g⟩| / Σ F g² of samples with these values, (rows,) each; NaN where Σ F g² is 0."""
    return torch.where(square > 0, 2 * product.abs() / square, torch.nan)


def reads_fisher(needs: frozenset[Need]) -> bool:
    """Whether a scorer with these needs reads the Fisher information; of the posterior it may need the mean alone."""
    return {Need.POSTERIOR, Need.GRADIENTS} <= needs


class Scorer(Protocol):
    """One way to rank self-knowledge: the higher the score, the sooner a sample is unlearned."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be measured. A scorer that needs no gradients costs no backward pass."""

    def score(self, measured: Measured) -> Tensor:
        """(rows,) float64."""
