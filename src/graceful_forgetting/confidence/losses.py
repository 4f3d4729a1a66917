"""Losses from forward passes: at θ_base, and at the mean of the posterior."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.confidence.scorer import Inputs, Measurement, Need
from graceful_forgetting.data import IGNORE_INDEX, OTHER_OPTIONS
from graceful_forgetting.gradients.memory import MemoryEstimate, forward_bytes
from graceful_forgetting.gradients.options import most_options, sample_token_losses
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.gradients.rows import batches, load_batch, usable_rows
from graceful_forgetting.gradients.token_loss import mean_losses
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.batches import BatchLimit

MOST_LEARNING_ROWS = 256
"""Rows that tell how far learning has come: the share of the loss that is gone is known to a few hundredths by them."""


class Losses(Measurement):
    """`loss`: L(x) at θ_base."""

    columns = ("loss",)

    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:
        read = batch_size * most_options(self.inputs.rows)
        return MemoryEstimate.on(self.inputs.model, forward_bytes(self.inputs.model, row, read))

    @contextmanager
    def prepared(self) -> Iterator[None]:
        with differentiating(self.inputs.model, ()), torch.no_grad():
            yield

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        return {"loss": self.inputs.losses(indices)}


class ReferenceLosses(Measurement):
    """`loss` and `reference_loss`: L(x) at θ_base and at θ*_L; `answer_shift`, see `shift_by_answer`.

    θ*_L is held on the device, in the type of the parameters, beside θ_base; on the CPU in float32 the posterior's own
    tensors serve. Raises `ValueError` for a posterior that covers a part of the parameters.
    """

    columns: ClassVar[tuple[str, ...]] = ("loss", "reference_loss")
    needs = frozenset({Need.POSTERIOR})

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        assert inputs.posterior is not None
        self._posterior, self._reference = inputs.posterior, dict[str, Tensor]()
        if inputs.posterior.is_partial():
            raise ValueError(
                f"scorer {inputs.config.scorer!r} needs θ*_L whole, and the posterior covers a part of it "
                f"({inputs.posterior.coverage}); estimate one without parameter_pattern and last_blocks"
            )

    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:
        model, read = self.inputs.model, batch_size * most_options(self.inputs.rows)
        copies = _copied_bytes(model, self._posterior.mean)
        return MemoryEstimate.on(model, forward_bytes(model, row, read), copies=copies)

    def parameters(self) -> list[str]:
        return list(self._posterior.mean)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self._reference = in_place_of(self.inputs.model, self._posterior.mean)
        with differentiating(self.inputs.model, ()), torch.no_grad():
            yield

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        loss = self.inputs.losses(indices)
        with exchanged(self.inputs.model, self._reference):
            return {"loss": loss, "reference_loss": self.inputs.losses(indices)}

    def derived(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        rise = values["reference_loss"] - values["loss"]
        return {"answer_shift": shift_by_answer(rise, self.inputs.rows)}


class TokenFalls(ReferenceLosses):
    """The same, and `token_fall`: mean over the tokens of max(0, √p − √p′)², p of a token at θ_base and p′ at θ*_L.

    An answer that was chosen among options is one token, whose p is its share of their probability.
    """

    columns = (*ReferenceLosses.columns, "token_fall")

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        model, device = self.inputs.model, self.inputs.model.device
        before, counted = sample_token_losses(model, self.inputs.rows, indices, device)
        with exchanged(model, self._reference):
            after, _ = sample_token_losses(model, self.inputs.rows, indices, device)
        fall = ((-before / 2).exp() - (-after / 2).exp()).clamp(min=0) ** 2

        def mean(values: Tensor) -> Tensor:
            return values.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1)

        return {"loss": mean(before), "reference_loss": mean(after), "token_fall": mean(fall)}


def shift_by_answer(rise: Tensor, rows: Dataset) -> Tensor:
    """By how much the answer alone, whatever the prompt, changes the rise of the loss, (rows,) float64.

    Early in learning one of the options becomes likelier everywhere, and the others less likely. That is no knowledge
    about any prompt, and to first order the mean over the answers is free of it. So of rows with the same options the
    shift is the mean rise of those with the same answer, less the mean of these means. 0 for rows without options.

    Args:
        rise: of the loss, (rows,); NaN where it is not known.
        rows: tokenised (`input_ids`, `labels`, perhaps `other_options`).
    """
    shift = torch.zeros_like(rise)
    if OTHER_OPTIONS not in rows.column_names:
        return shift
    chosen: dict[frozenset[tuple[int, ...]], dict[tuple[int, ...], list[int]]] = {}
    for index, row in enumerate(rows):
        if row[OTHER_OPTIONS] and not rise[index].isnan():
            answer = tuple(label for label in row["labels"] if label != IGNORE_INDEX)
            options = frozenset({answer, *map(tuple, row[OTHER_OPTIONS])})
            chosen.setdefault(options, {}).setdefault(answer, []).append(index)
    for by_answer in chosen.values():
        means = [rise[indices].mean() for indices in by_answer.values()]
        for mean, indices in zip(means, by_answer.values(), strict=True):
            shift[indices] = mean - torch.stack(means).mean()
    return shift


def learning_loss(model: PreTrainedModel, learning: Dataset, batch_size: int) -> float:
    """Mean over learning rows of L(row), nats per token, at the weights that the model is at.

    Args:
        model: left as it was.
        learning: tokenised (`input_ids`, `labels`); of more than `MOST_LEARNING_ROWS`, as many evenly spaced ones.
        batch_size: rows per forward pass; does not change the result but by rounding.

    Raises:
        ValueError: a row that the model cannot take, or none in which a token counts.
    """
    number = min(len(learning), MOST_LEARNING_ROWS)
    rows = learning.select([place * len(learning) // number for place in range(number)])
    lengths = usable_rows(rows, model, argument="train_dataset")
    limit, total = BatchLimit("The loss of the learning task", batch_size), 0.0

    def loss(indices: Sequence[int]) -> float:
        return mean_losses(model, load_batch(rows, indices, model.device)).double().sum().item()

    with differentiating(model, ()), torch.no_grad():
        for indices in batches(lengths, batch_size):
            total += sum(limit.in_parts(indices, loss))
    return total / len(lengths)


def in_place_of(model: nn.Module, mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the parameters must be for the model to be at `mean`: a dense weight's adapter adds its part itself."""
    values, found = ParameterValues(model, mean), {}
    for name, parameter in values.parameters.items():
        wanted, part = mean[name].to(parameter.device), values.adapter_part(name)
        found[name] = (wanted if part is None else wanted - part).to(parameter.dtype)
    return found


def _copied_bytes(model: nn.Module, mean: Mapping[str, Tensor]) -> int:
    """What `in_place_of` makes: nothing for a parameter that is on the device of its mean, in its type."""
    values = ParameterValues(model, mean)
    return sum(
        parameter.nbytes
        for name, parameter in values.parameters.items()
        if (parameter.device, parameter.dtype) != (mean[name].device, mean[name].dtype)
        or values.adapter_part(name) is not None
    )


@contextmanager
def exchanged(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with `tensors` for its parameters of these names inside the block; nothing is copied."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in tensors}
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tensors[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
