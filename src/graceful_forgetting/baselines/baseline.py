"""What a baseline is: at most four hooks into fine-tuning, and the declaration of what it needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.results.result import LineSearchResult


class Need(Enum):
    """What a baseline needs beside the base model and the learning rows.

    `SELF_KNOWLEDGE`: the base model's answers, scored and selected, which takes a forgetting data set. `POSTERIOR`: of
    the learning task, which takes a reference run. `FULL_MODEL`: the model itself is trained, not an adapter.
    `HELD_OUT`: learning rows that are not trained on.
    """

    SELF_KNOWLEDGE = "self_knowledge"
    POSTERIOR = "posterior"
    FULL_MODEL = "full_model"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class BaselineContext:
    """What a baseline is made from, before training; the model is at θ_base, also when a run is resumed.

    Attributes:
        model: the model that is trained.
        args: settings of the run.
        learning: tokenised learning rows.
        self_knowledge, selected: tokenised self-knowledge, and the part of it that is selected for unlearning; none
            unless declared as needed.
        posterior: of the learning task; none unless declared as needed.
        fine_tune: plain fine-tuning of the model, in place, on tokenised rows for a number of updates, with the
            settings of the run.
    """

    model: PreTrainedModel
    args: LWFConfig
    learning: Dataset
    self_knowledge: Dataset | None
    selected: Dataset | None
    posterior: LearningPosterior | None
    fine_tune: Callable[[Dataset, int], None]


@dataclass(frozen=True)
class LearningBatch:
    """One forward pass of a learning update.

    Attributes:
        inputs: `input_ids`, `attention_mask`, `labels`, (batch, length).
        log_probs: (batch, length − 1), log-probability of each next token, differentiable; 0 where it does not count.
        mask: (batch, length − 1) bool, whether the next token counts.
        hidden_states: (batch, length − 1, width), last hidden state at each of these positions, differentiable.
        progress: share of the learning updates that are done, in [0, 1).
    """

    inputs: Mapping[str, Tensor]
    log_probs: Tensor
    mask: Tensor
    hidden_states: Tensor
    progress: float


class Baseline:
    """A way to fine-tune that graceful forgetting is compared with; by itself it changes nothing.

    What it needs of θ_base is measured at its construction. Everything that it computes later depends on that and on
    the arguments of the hooks alone, so that a resumed run goes on exactly.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(self, context: BaselineContext) -> None:
        """Read the settings, and measure the model at θ_base."""

    def before_training(self, model: PreTrainedModel) -> None:
        """Change the weights before the first update, in place; not called when a run is resumed."""

    def penalty(self, batch: LearningBatch) -> Tensor | None:
        """A term, (), added to the loss of a learning update; passes that make up one update are averaged."""

    def token_weights(self, batch: LearningBatch) -> Tensor | None:
        """What each next token's loss is multiplied by, (batch, length − 1); none = 1."""

    def after_training(self, model: PreTrainedModel, held_out_loss: Callable[[], float]) -> LineSearchResult | None:
        """Change the weights after the last update, in place; returns what a search among them found.

        `held_out_loss` measures the model as it is when called, in nats per token; it needs `Need.HELD_OUT`.
        """
