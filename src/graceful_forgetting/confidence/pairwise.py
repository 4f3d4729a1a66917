"""Gradients of samples measured against that of every single learning example."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.confidence.scorer import Inputs, Measurement, Need
from graceful_forgetting.gradients.diagnosis import not_finite
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.memory import MemoryEstimate, backward_bytes
from graceful_forgetting.gradients.projection import ProjectedGradients, projection_bytes
from graceful_forgetting.gradients.rows import batches, load_batch, usable_rows
from graceful_forgetting.runtime.batches import BatchLimit

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

    Attributes:
        parameters: by name.
        directions: (examples, width) float32 on the model's device: the gradients themselves where they fit, else
            projected at random to `width` numbers or fewer; 0 where the gradient is.

    Raises:
        ValueError: a row that the model cannot take, or none in which a token counts; no parameter but those of the
            output layer.
        FloatingPointError: a learning example whose gradient is not finite, by row and parameter.
    """

    def __init__(self, model: PreTrainedModel, learning: Dataset, batch_size: int, width: int) -> None:
        lengths = usable_rows(learning, model, argument="learning")
        self.parameters = parameters_before_output(model)
        self.projection = ProjectedGradients(self.parameters, width)
        self.directions = torch.empty(len(lengths), self.projection.width, device=model.device)
        limit, done, wrong = BatchLimit("Scoring", batch_size), 0, []
        with PerSampleEngine(model, self.parameters) as engine:

            def features(indices: Sequence[int]) -> Tensor:
                engine.run(load_batch(learning, indices, model.device), self.projection)
                return directions(self.projection.features)

            for indices in batches(lengths, batch_size):
                for found in limit.in_parts(indices, features):
                    self.directions[done : done + len(found)] = found
                    done += len(found)
                finite = self.directions[done - len(indices) : done].isfinite().all(dim=1).tolist()
                wrong += [index for index, good in zip(indices, finite, strict=True) if not good]
        if wrong:
            raise not_finite(model, learning, wrong, list(self.parameters), "learning")


def directions(vectors: Tensor) -> Tensor:
    """`vectors` (rows, width) at length 1; those of length 0 stay as they are."""
    norms = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(norms == 0, 1.0, norms)


class LeastCosines(Measurement):
    """`loss` L(x), and `least_cosine`: the least cosine of ∇L(x) and ∇L(r) over the learning examples r.

    Of the parameters before the output layer, at θ_base; 0 where either gradient is 0.
    """

    columns = ("loss", "least_cosine")
    needs = frozenset({Need.LEARNING})

    _engine: PerSampleEngine
    _learning: LearningDirections

    def __init__(self, inputs: Inputs, width: int | None = None) -> None:
        """width: numbers held of each gradient at most; default: see `feature_width`."""
        super().__init__(inputs)
        assert inputs.learning is not None
        self._rows, self._compared = inputs.learning, parameters_before_output(inputs.model)
        self._width = width or feature_width(self._compared, len(self._rows), inputs.config.batch_size)

    @property
    def kept(self) -> int:
        """Numbers that are held of each gradient."""
        return self._learning.projection.width

    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:
        activations = backward_bytes(self.inputs.model, row, batch_size, self.parameters())
        # Directions of all learning examples; of a batch, the gradients as they come and at length 1.
        copies = 4 * self._width * (len(self._rows) + 2 * batch_size)
        copies += projection_bytes(self._compared, self._width)
        return MemoryEstimate.on(self.inputs.model, activations, copies=copies)

    def parameters(self) -> list[str]:
        return list(self._compared)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        model = self.inputs.model
        self._learning = LearningDirections(model, self._rows, self.inputs.config.batch_size, self._width)
        with PerSampleEngine(model, self._learning.parameters) as self._engine:
            yield

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        loss = self._engine.run(self.inputs.batch(indices), self._learning.projection)
        found = directions(self._learning.projection.features)
        # What is not finite stays so, to be reported.
        return {"loss": loss, "least_cosine": (found @ self._learning.directions.mT).amin(dim=1)}
