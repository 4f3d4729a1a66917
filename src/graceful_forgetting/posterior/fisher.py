"""The diagonal Fisher information of a model on a data set."""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.config import PosteriorConfig
from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.gradients.diagnosis import not_finite
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.memory import MemoryEstimate, backward_bytes
from graceful_forgetting.gradients.parameters import covered_parameters
from graceful_forgetting.gradients.reducers import SquaredGradients
from graceful_forgetting.gradients.rows import load_batch, tokenised_rows, usable_rows
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, draw_targets
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.batches import BatchLimit
from graceful_forgetting.runtime.distributed import (
    gather,
    process_count,
    process_index,
    sum_over_processes,
    together,
)
from graceful_forgetting.runtime.fingerprint import fingerprint_model, fingerprint_rows
from graceful_forgetting.runtime.progress import progress_bar
from graceful_forgetting.runtime.store import Entry, key_of

logger = logging.getLogger(__name__)

# Gradients between two saves.
SHARD_SIZE = 1024
_SUMS, _TOTAL, _TRACES = "sums.safetensors", "total.", "traces"


class FisherEstimate(NamedTuple):
    """A diagonal Fisher information and how well it is known.

    `diagonal`: float32 CPU tensors by name; `num_samples`: rows that it is the mean over; `trace`: sum of its
    elements; `trace_standard_error`: of the trace, from its spread over the rows (null for a single row).
    """

    diagonal: dict[str, Tensor]
    num_samples: int
    trace: float
    trace_standard_error: float | None


@dataclass(frozen=True)
class _Unit:
    """One gradient to square: a row and, for its label, the number of a draw or a (position, token)."""

    row: int
    draw: int = 0
    position: int = 0
    token: int = 0


def estimate_fisher(
    model: PreTrainedModel,
    learning: Dataset,
    config: PosteriorConfig | None = None,
    resume_dir: str | Path | None = None,
    draws: int = 1,
) -> dict[str, Tensor]:
    """Diagonal Fisher information at the model's weights: mean over samples of the squared ∇L(x).

    L is the mean negative log-likelihood (nats) over completion tokens. With 'sampled' the label at every
    counted position is drawn from the model's own distribution there, given the data's tokens before it:
    the Fisher information of Martens, *New Insights and Perspectives on the Natural Gradient Method*, JMLR
    2020, up to the averaging over tokens. 'exact' is the expectation of 'sampled': with g_t(y) the gradient of
    −log p(y) at position t of T,

        F = 1/T² Σ_t Σ_y p_t(y) g_t(y)²

    since labels at different positions are independent and Σ_y p_t(y) g_t(y) = 0; it costs one gradient for
    every position and token of the vocabulary. With 'empirical' the labels are the data's. Batch size and
    order of the rows do not change the draws.

    Under several processes every one must call this; each takes a share of the rows and all return the sum,
    which differs from that of one process by the rounding of float32.

    Args:
        model: at the weights where F is wanted, whatever `config.fisher_at` says; left as it was.
        learning: tokenised (`input_ids`, `labels`). Rows in which no token counts are left out, with a
            warning.
        config: estimator, samples, parameters, batch size, seed.
        resume_dir: folder for intermediate sums, written after every 1024 gradients; a second call with the same
            arguments goes on from there.
        draws: labels drawn per position with 'sampled'; the estimate is their mean.

    Returns:
        float32 CPU tensors by name, for every parameter covered.

    Raises:
        ValueError: packed rows; a row that exceeds the model's context; no row in which a token counts; no
            parameter that is covered.
        FileExistsError: something that is not such sums is in their place.
        FloatingPointError: a gradient that is not finite, by row and parameter.
    """
    rows = tokenised_rows(learning, None, argument="learning")
    return fisher_estimate(model, rows, config or PosteriorConfig(), resume_dir, draws).diagonal


def fisher_estimate(
    model: PreTrainedModel,
    rows: Dataset,
    config: PosteriorConfig,
    resume_dir: str | Path | None = None,
    draws: int = 1,
) -> FisherEstimate:
    """As `estimate_fisher`, of prepared rows, with the trace and its standard error."""
    if draws > 1 and config.estimator != "sampled":
        raise ValueError(
            f"draws={draws} with estimator={config.estimator!r}: only 'sampled' draws labels; leave draws at 1"
        )
    lengths: Mapping[int, int] = usable_rows(rows, model, argument="learning")
    if config.num_samples is not None and config.num_samples < len(lengths):
        generator = numpy.random.default_rng(config.seed)
        chosen = generator.choice(sorted(lengths), size=config.num_samples, replace=False)
        lengths = {int(index): lengths[int(index)] for index in chosen}
    parameters = covered_parameters(model, config.covered)
    units = _units(model, rows, lengths, config, draws)
    batches = [units[start : start + config.batch_size] for start in range(0, len(units), config.batch_size)]
    memory = _memory(model, rows, batches[0], parameters)
    logger.info("Fisher information of %d gradients: %s", len(units), memory)
    memory.require_fit("the Fisher information", config.batch_size)
    sums = _Sums(parameters, len(rows), draws)
    checkpoint = None if resume_dir is None else _Checkpoint(resume_dir, model, rows, config, draws)
    together(lambda: _accumulate(sums, model, rows, batches, config, checkpoint))
    diagonal = {name: (sum_over_processes(total) / len(lengths)).cpu() for name, total in sums.totals.items()}
    traces = torch.stack(gather(sums.traces)).sum(dim=0)[sorted(lengths)]
    spread = float(traces.std()) / math.sqrt(len(traces)) if len(traces) > 1 else None
    return FisherEstimate(diagonal, len(lengths), float(traces.mean()), spread)


def _memory(
    model: PreTrainedModel, rows: Dataset, first: list[_Unit], parameters: Mapping[str, nn.Parameter]
) -> MemoryEstimate:
    """What the estimation needs, from the longest row."""
    row = load_batch(rows, [first[0].row], model.device)
    return MemoryEstimate.on(
        model,
        backward_bytes(model, row, len(first), list(parameters)),
        weights=sum(4 * parameter.numel() for parameter in parameters.values()),
        weights_are="sums of squares",
    )


def _accumulate(
    sums: "_Sums",
    model: PreTrainedModel,
    rows: Dataset,
    batches: list[list[_Unit]],
    config: PosteriorConfig,
    checkpoint: "_Checkpoint | None",
) -> None:
    """Add this process's share of the batches; every `SHARD_SIZE` gradients the sums are saved."""
    own = [unit for batch in batches[process_index() :: process_count()] for unit in batch]
    limit = BatchLimit("The Fisher information", config.batch_size)
    per_shard = max(1, SHARD_SIZE // config.batch_size) * config.batch_size
    done = saved = 0 if checkpoint is None else checkpoint.load(sums)
    with (
        PerSampleEngine(model, sums.totals) as engine,
        progress_bar("Estimating Fisher information", "gradients", len(own), initial=done) as progress,
    ):
        while done < len(own):
            units, before = own[done : min(done + limit.size, saved + per_shard)], done
            # A backward pass that breaks off has added a part of its gradients: back to what was saved.
            done = -1
            with limit.attempt(len(units)):
                _add_batch(sums, engine, model, rows, units, config)
                done = before + len(units)
            if done < 0:
                sums.clear()
                done = saved = 0 if checkpoint is None else checkpoint.load(sums)
            progress.update(done - before)
            if done == saved + per_shard:
                saved = done
                if checkpoint is not None:
                    checkpoint.save(sums, done)


def _add_batch(
    sums: "_Sums",
    engine: PerSampleEngine,
    model: PreTrainedModel,
    rows: Dataset,
    units: list[_Unit],
    config: PosteriorConfig,
) -> None:
    batch = load_batch(rows, [unit.row for unit in units], model.device)
    weights = torch.full((len(units),), 1.0 / sums.draws, device=model.device)
    if config.estimator == "exact":
        weights = _one_label(model, batch, units)
    # The first draw of a row does not depend on how many there are.
    streams = [unit.row + unit.draw * len(rows) for unit in units]

    def draw(logits: Tensor, targets: Tensor) -> Tensor:
        return draw_targets(logits, targets, streams, config.seed)

    sums.weights = weights
    engine.run(batch, sums, draw if config.estimator == "sampled" else None)
    wrong = [unit for unit, square in zip(units, sums.squares.tolist(), strict=True) if not math.isfinite(square)]
    if wrong:
        raise not_finite(model, rows, [unit.row for unit in wrong], list(sums.totals), "learning")
    sums.traces.index_add_(0, torch.tensor([unit.row for unit in units]), sums.squares.cpu())


def _units(
    model: PreTrainedModel, rows: Dataset, lengths: Mapping[int, int], config: PosteriorConfig, draws: int
) -> list[_Unit]:
    """Every gradient that is squared, those of long rows first: memory runs out early or never."""
    order = sorted(lengths, key=lambda index: (-lengths[index], index))
    if config.estimator != "exact":
        return [_Unit(row, draw) for row in order for draw in range(draws)]
    vocabulary = range(model.config.get_text_config().vocab_size)
    return [
        _Unit(row, position=position, token=token)
        for row in order
        for position in _counted(rows[row]["labels"])
        for token in vocabulary
    ]


def _counted(labels: list[int]) -> Iterator[int]:
    return (position for position, label in enumerate(labels) if position > 0 and label != IGNORE_INDEX)


def _one_label(model: PreTrainedModel, batch: dict[str, Tensor], units: list[_Unit]) -> Tensor:
    """Leave each row of the batch its unit's label alone; returns p_t(y) / T², (batch,)."""
    labels = batch["labels"]
    counted = (labels[:, 1:] != IGNORE_INDEX).sum(dim=1)
    every = torch.arange(len(units), device=labels.device)
    position = torch.tensor([unit.position for unit in units], device=labels.device)
    token = torch.tensor([unit.token for unit in units], device=labels.device)
    labels.fill_(IGNORE_INDEX)
    labels[every, position] = token
    with differentiating(model, ()), torch.no_grad():
        positions, targets = counted_targets(batch)
        logits = counted_logits(model, batch, positions)
    column = (targets != IGNORE_INDEX).int().argmax(dim=1)
    probability = logits[every, column].double().softmax(dim=-1)[every, token]
    return (probability / counted.double() ** 2).float()


class _Sums(SquaredGradients):
    """Also keeps, in `traces`, (rows,) float64, the squared norms summed by row; filled by the caller."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], rows: int, draws: int) -> None:
        super().__init__(parameters)
        self.draws = draws
        self.traces = torch.zeros(rows, dtype=torch.float64)

    def clear(self) -> None:
        """Back to 0."""
        for total in (*self.totals.values(), self.traces):
            total.zero_()


class _Checkpoint:
    """The sums of one process on disk, with the number of gradients that are in them."""

    def __init__(
        self, folder: str | Path, model: PreTrainedModel, rows: Dataset, config: PosteriorConfig, draws: int
    ) -> None:
        key = key_of(
            model=fingerprint_model(model),
            rows=fingerprint_rows(rows),
            settings=asdict(config) | {"draws": draws},
            process=[process_index(), process_count()],
        )
        self._entry = Entry(Path(folder) / f"fisher-{process_index()}-of-{process_count()}", key)

    def save(self, sums: _Sums, gradients_done: int) -> None:
        def fill(folder: Path) -> dict[str, int]:
            tensors = {_TOTAL + name: total.cpu() for name, total in sums.totals.items()} | {_TRACES: sums.traces}
            save_file(tensors, folder / _SUMS)
            return {"gradients_done": gradients_done}

        self._entry.write(fill)

    def load(self, sums: _Sums) -> int:
        """Take up the sums; returns the number of gradients in them, 0 where there are none of this work."""
        record = self._entry.read()
        if record is None:
            return 0
        with safe_open(self._entry.path / _SUMS, framework="pt") as file:
            for name, total in sums.totals.items():
                total.copy_(file.get_tensor(_TOTAL + name))
            sums.traces.copy_(file.get_tensor(_TRACES))
        logger.info("Fisher information: %d gradients were done before", record["gradients_done"])
        return int(record["gradients_done"])
