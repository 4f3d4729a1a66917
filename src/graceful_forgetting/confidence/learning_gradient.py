"""Gradients of samples measured against the mean gradient of the learning task."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from graceful_forgetting.confidence.scorer import Inputs, Measurement, Need
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.memory import MemoryEstimate, backward_bytes
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.gradients.rows import batches, load_batch, usable_rows
from graceful_forgetting.gradients.token_loss import mean_losses
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.batches import BatchLimit


def mean_gradient(model: PreTrainedModel, learning: Dataset, batch_size: int) -> dict[str, Tensor]:
    """Mean over the rows of ∇L(row), by name of every parameter that requires a gradient, float32 on its device.

    Args:
        model: left as it was.
        learning: tokenised (`input_ids`, `labels`); rows in which no token counts are left out.
        batch_size: rows per forward and backward pass; does not change the result but by rounding.

    Raises:
        ValueError: a row that the model cannot take, or none in which a token counts.
    """
    lengths = usable_rows(learning, model, argument="learning")
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    totals = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    limit = BatchLimit("Scoring", batch_size)

    def add(indices: Sequence[int]) -> None:
        batch = load_batch(learning, indices, model.device)
        loss = mean_losses(model, batch).sum() / len(lengths)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                totals[name] += gradient

    with differentiating(model, parameters), torch.enable_grad():
        for indices in batches(lengths, batch_size):
            limit.in_parts(indices, add)
    return totals


class LearningProducts(Measurement):
    """`loss` L(x), `learning_product` ⟨g, ḡ⟩ and `learning_cosine` ⟨g, ḡ⟩ / (‖ḡ‖ ‖g‖), 0 where either gradient is 0.

    g = ∇L(x), ḡ the mean gradient of the learning rows, of every parameter that requires a gradient, at θ_base.
    """

    columns = ("loss", "learning_product", "learning_cosine")
    needs = frozenset({Need.LEARNING})

    _engine: PerSampleEngine
    _terms: ConfidenceTerms
    _norm: Tensor

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._trained = {name: p.numel() for name, p in inputs.model.named_parameters() if p.requires_grad}

    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:
        activations = backward_bytes(self.inputs.model, row, batch_size, self.parameters())
        # The mean gradient, and that of one batch while it is formed.
        copies = 2 * 4 * sum(self._trained.values())
        return MemoryEstimate.on(self.inputs.model, activations, copies=copies)

    def parameters(self) -> list[str]:
        return list(self._trained)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        model, learning = self.inputs.model, self.inputs.learning
        assert learning is not None
        gradient = mean_gradient(model, learning, self.inputs.config.batch_size)
        self._norm = torch.stack([part.double().square().sum().cpu() for part in gradient.values()]).sum().sqrt()
        self._terms = ConfidenceTerms(gradient, gradient, dict(model.named_parameters()), norms=True)
        with PerSampleEngine(model, gradient) as self._engine:
            yield

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        loss = self._engine.run(self.inputs.batch(indices), self._terms)
        assert self._terms.norms is not None
        product, norms = self._terms.linear.cpu(), self._terms.norms.cpu().sqrt() * self._norm
        # A gradient that is not finite must stay so, to be reported.
        cosine = torch.where(norms == 0, 0.0, product / norms)
        return {"loss": loss, "learning_product": product, "learning_cosine": cosine}
