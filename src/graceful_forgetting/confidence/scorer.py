"""What a scorer is: a formula over measured values. What a measurement is: the values, and what they cost.

A scorer names the measurements that it reads; nothing is measured that nobody reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients.diagnosis import not_finite
from graceful_forgetting.gradients.memory import MemoryEstimate
from graceful_forgetting.gradients.options import sample_losses
from graceful_forgetting.gradients.rows import load_batch
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.runtime.fingerprint import fingerprint_model, fingerprint_rows
from graceful_forgetting.runtime.own_code import fingerprint_code
from graceful_forgetting.runtime.store import key_of


class Need(Enum):
    """What a measurement reads beside the model and its self-knowledge.

    `POSTERIOR`: the mean θ*_L of the learning task's posterior. `FISHER`: the Fisher information of the posterior as
    well. `LEARNING`: tokenised learning rows.
    """

    POSTERIOR = "posterior"
    FISHER = "fisher"
    LEARNING = "learning"


@dataclass(frozen=True)
class Inputs:
    """What a measurement is made from.

    Attributes:
        model: at θ_base.
        rows: tokenised self-knowledge (`input_ids`, `labels`, perhaps `other_options`).
        config: settings of scoring.
        posterior: of the learning task; there where `Need.POSTERIOR` or `Need.FISHER` is declared.
        learning: tokenised learning rows; there where `Need.LEARNING` is declared.
        announce: receives what the user should know.
    """

    model: PreTrainedModel
    rows: Dataset
    config: ConfidenceConfig
    posterior: LearningPosterior | None
    learning: Dataset | None
    announce: Callable[[str], None]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Right-padded `input_ids`, `attention_mask`, `labels` of rows, each (len(indices), longest row)."""
        return load_batch(self.rows, indices, self.model.device)

    def losses(self, indices: Sequence[int]) -> Tensor:
        """L(x) of rows, (len(indices),) float64 on the CPU, at the weights that the model is at."""
        return sample_losses(self.model, self.rows, indices)


class Measurement(ABC):
    """One kind of values, measured batch by batch; making one computes nothing yet.

    Attributes:
        columns: names of the values that it measures.
        needs: what it reads.
        undefined: those of its columns that may be NaN; a value of another column that is not finite is an error.
    """

    columns: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[Need]] = frozenset()
    undefined: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    @classmethod
    def of(cls, inputs: Inputs) -> "Measurement":
        """The measurement that fits the settings: this one, unless a class knows several ways to the same columns."""
        return cls(inputs)

    @abstractmethod
    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:
        """What it will take for batches of `batch_size` rows like `row`, a batch of one, the longest."""

    def parameters(self) -> list[str]:
        """The parameters whose gradients are measured; an error that a value is not finite looks there."""
        return []

    def settings(self) -> Mapping[str, Any]:
        """Settings that the values depend on, beside the batch size; JSON."""
        return {}

    def key(self) -> str:
        """Hash of everything that the values depend on: what was measured under it before serves again."""
        inputs, code = self.inputs, fingerprint_code(type(self))
        posterior = inputs.posterior if self.needs & {Need.POSTERIOR, Need.FISHER} else None
        learning = inputs.learning if Need.LEARNING in self.needs else None
        return key_of(
            measurement=type(self).__name__,
            **({} if code is None else {"code": code}),
            columns=self.columns,
            model=fingerprint_model(inputs.model),
            rows=fingerprint_rows(inputs.rows),
            posterior=None if posterior is None else posterior.fingerprint(),
            learning=None if learning is None else fingerprint_rows(learning),
            batch_size=inputs.config.batch_size,
            settings=dict(self.settings()),
        )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Around all batches: what they share is computed, the model made ready, and set back at the end."""
        yield

    @abstractmethod
    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        """Every column of the rows `indices`, (len(indices),) each; `self.inputs.batch(indices)` loads them."""

    def checked(self, indices: Sequence[int]) -> Tensor:
        """What `measure` returns, (len(indices), len(columns)) float64 on the CPU.

        Raises:
            FloatingPointError: a value that is not finite, by row and parameter.
        """
        found = self.measure(indices)
        values = torch.stack([found[name].to("cpu", torch.float64) for name in self.columns], dim=1)
        defined = [position for position, name in enumerate(self.columns) if name not in self.undefined]
        finite = values[:, defined].isfinite().all(dim=1).tolist()
        wrong = [index for index, good in zip(indices, finite, strict=True) if not good]
        if wrong:
            raise not_finite(self.inputs.model, self.inputs.rows, wrong, self.parameters(), "self_knowledge")
        return values

    def derived(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Further columns, from those of all rows at once; each (rows,) float64."""
        return {}


@dataclass(frozen=True)
class Measured:
    """Measured values: `measured["loss"]` is a column, (rows,) float64 on the CPU; NaN in rows that no token counts in.

    Attributes:
        usable: whether a token counts in the row, (rows,) bool.
        seed: for scorers that draw.
        columns: by name; those of the measurements that the scorer reads.
    """

    usable: Tensor
    seed: int
    columns: Mapping[str, Tensor]

    def __getitem__(self, column: str) -> Tensor:
        return self.columns[column]


class Scorer(ABC):
    """One way to rank self-knowledge: the higher the score, the sooner a sample is unlearned.

    `reads`: the measurements whose columns the formula uses.
    """

    reads: ClassVar[tuple[type[Measurement], ...]] = ()

    @property
    def needs(self) -> frozenset[Need]:
        """What its measurements need."""
        return frozenset(need for measurement in self.reads for need in measurement.needs)

    @abstractmethod
    def score(self, measured: Measured) -> Tensor:
        """(rows,) float64."""


def reads_fisher(needs: frozenset[Need]) -> bool:
    """Whether a scorer with these needs reads the Fisher information; of the posterior it may need the mean alone."""
    return Need.FISHER in needs
