"""Forgetting as a perturbation: the weights at which a learning update takes its gradient."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Perturbation:
    """Moves the weights along an unlearning update for the passes of one learning update, and back.

    With ĝ the gradient of what unlearning minimises, divided by its norm over all trainable weights, the learning
    gradient is taken at θ − ρ ĝ and applied at θ. To first order that adds ρ ⟨∇ learning loss, −ĝ⟩ to what is
    learned: learning must not lean on what should go. Nothing is unlearned for good.

    Perturbed Forgetting (Vani et al., *Forgetting Sharpness: Perturbed Forgetting of Model Biases Within SAM Dynamics*,
    ICML 2024, arXiv 2406.06700), the step of SAM (Foret et al., ICLR 2021, arXiv 2010.01412, eq. 2 and 3) with
    another direction.
    """

    def __init__(self) -> None:
        self._weights: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def begin(self, parameters: Sequence[nn.Parameter], radius: float, grad_norm: float) -> None:
        """Move the weights by `radius`, against their gradients; these stay as they are.

        Args:
            parameters: whole ones, or shards of FSDP2.
            radius: ρ, the norm of the move over all parameters.
            grad_norm: norm of all gradients, above 0, on all processes.
        """
        # Adding and subtracting would not give back the same numbers.
        for parameter in parameters:
            if parameter.grad is not None:
                self._weights.append((parameter, parameter.detach().clone()))
                parameter.sub_(parameter.grad, alpha=radius / grad_norm)

    @contextmanager
    def around(self, last: bool) -> Iterator[None]:
        """Around each learning pass: the weights are back after the `last` one of an update, and where one fails."""
        try:
            yield
        except BaseException:
            self._end()
            raise
        if last:
            self._end()

    @torch.no_grad()
    def _end(self) -> None:
        for parameter, weights in self._weights:
            parameter.copy_(weights)
        self._weights = []
