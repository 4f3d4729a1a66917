"""Gradients of samples measured against that of every single learning example."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.confidence.measure import LEAST_COSINE, LOSS, Measurement, empty
from graceful_forgetting.gradients.diagnosis import not_finite
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.oracle import oracle_gradients
from graceful_forgetting.gradients.projection import ProjectedGradients
from graceful_forgetting.gradients.rows import batches, load_batch, usable_rows

# Numbers held of all learning examples together (2 GiB); of a single one never fewer than the second, since the least
# of many cosines picks up the noise of the projection.
_ALL_FEATURES = 2**29
_FEWEST_FEATURES = 2**16


def parameters_before_output(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name, without those of the output layer.

    Raises:
        ValueError: there is no other.
    """
    head = model.get_output_embeddings()
    own = set() if head is None else {id(parameter) for parameter in head.parameters()}
    found = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in own}
    if not found:
        raise ValueError(
            "scorer 'pairwise_conflict' compares gradients of the parameters before the output layer, and none of them "
            "requires a gradient; train more of the model, or use scorer 'gradient_conflict'"
        )
    return found


def feature_width(parameters: Mapping[str, nn.Parameter], rows: int, batch_size: int) -> int:
    """How many numbers are held of each gradient: all, where `rows` learning examples leave the memory for it."""
    available = max(_FEWEST_FEATURES, _ALL_FEATURES // max(rows, batch_size))
    return min(available, sum(parameter.numel() for parameter in parameters.values()))


class LearningDirections:
    """∇L(r) of every learning example r, of length 1; of the parameters before the output layer, at θ_base.

    Args:
        model: left as it was.
        learning: tokenised (`input_ids`, `labels`); rows in which no token counts are left out.
        batch_size: rows per forward and backward pass; does not change the result but by rounding.
        width: numbers held of each gradient at most; see `feature_width`.
        strict: refuse a model that needs the slow path.

    Attributes:
        parameters: by name.
        directions: (examples, width) float32 on the model's device: the gradients themselves where they fit, else
            projected at random to `width` numbers or fewer; 0 where the gradient is.

    Raises:
        ValueError: a row that the model cannot take, or none in which a token counts; no parameter but those of the
            output layer.
        FloatingPointError: a learning example whose gradient is not finite, by row and parameter.
    """

    def __init__(
        self, model: PreTrainedModel, learning: Dataset, batch_size: int, width: int, *, strict: bool = False
    ) -> None:
        lengths = usable_rows(learning, model, argument="learning")
        self.parameters = parameters_before_output(model)
        self.projection = ProjectedGradients(self.parameters, width)
        self.directions = torch.empty(len(lengths), self.projection.width, device=model.device)
        done, wrong = 0, []
        with PerSampleEngine(model, self.parameters, strict=strict) as engine:
            for indices in batches(lengths, batch_size):
                engine.run(load_batch(learning, indices, model.device), self.projection)
                finite = self.projection.features.isfinite().all(dim=1).tolist()
                wrong += [index for index, good in zip(indices, finite, strict=True) if not good]
                self.directions[done : done + len(indices)] = directions(self.projection.features)
                done += len(indices)
        if wrong:
            raise not_finite(model, learning, wrong, list(self.parameters), "learning")


def directions(vectors: Tensor) -> Tensor:
    """`vectors` (rows, width) at length 1; those of length 0 stay as they are."""
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(norms == 0, 1.0, norms)


class PairwiseMeasurement(Measurement):
    """L(x), and the least cosine of ∇L(x) and ∇L(r) over the learning examples r; 0 where either gradient is 0."""

    def __init__(self, model: PreTrainedModel, rows: Dataset, learning: LearningDirections, strict: bool) -> None:
        super().__init__()
        self._model, self._rows, self._learning = model, rows, learning
        self._engine = PerSampleEngine(model, learning.parameters, strict=strict)

    def _prepared(self) -> AbstractContextManager[Any]:
        return self._engine

    def measure(self, indices: Sequence[int]) -> Tensor:
        values, batch = empty(indices), load_batch(self._rows, indices, self._model.device)
        values[:, LOSS] = self._engine.run(batch, self._learning.projection).cpu()
        found = directions(self._learning.projection.features)
        # What is not finite stays so, to be reported.
        values[:, LEAST_COSINE] = (found @ self._learning.directions.mT).amin(dim=1).cpu()
        return values


class PairwiseOracle(Measurement):
    """As `PairwiseMeasurement`, from one backward pass a sample, nothing projected; slow, for checks."""

    def __init__(self, model: PreTrainedModel, rows: Dataset, learning: Dataset) -> None:
        super().__init__()
        self._model, self._rows = model, rows
        self._names = list(parameters_before_output(model))
        usable = learning.select(list(usable_rows(learning, model, argument="learning")))
        self._directions = directions(oracle_gradients(model, usable, self._names)[1])

    def _prepared(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def measure(self, indices: Sequence[int]) -> Tensor:
        values = empty(indices)
        values[:, LOSS], gradients = oracle_gradients(self._model, self._rows.select(indices), self._names)
        values[:, LEAST_COSINE] = (directions(gradients) @ self._directions.mT).amin(dim=1)
        return values
