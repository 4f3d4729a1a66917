"""What each stage of a run does, counted in tokens, updates and bytes."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from datasets import Dataset

from graceful_forgetting.confidence.losses import MOST_LEARNING_ROWS, Losses, ReferenceLosses
from graceful_forgetting.confidence.scorer import Need
from graceful_forgetting.confidence.scorers import scorer_named
from graceful_forgetting.config import ConfidenceConfig, LWFConfig
from graceful_forgetting.config.confidence import OF_LOSSES
from graceful_forgetting.gradients.shared_prompts import tokens_in_common
from graceful_forgetting.training.notices import learning_updates
from graceful_forgetting.unlearning.schedule import updates_due

# Rows whose lengths are looked at.
_LOOKED_AT = 256
# Tokens of an answer that is chosen among options: mostly a word, and what ends it.
_OPTION_TOKENS = 2.0
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Lengths:
    """Rows of a data set: how many, and the tokens of some of them, evenly spaced.

    `common`: tokens that all begin with, where these are read once for a batch of them (`tokens_in_common`).
    """

    number: int
    tokens: tuple[int, ...]
    common: int = 0

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], number: int | None = None) -> "Lengths":
        """Of tokenised rows; `number` where there are more than these."""
        known = tuple(len(row) for row in rows)
        return cls(len(rows) if number is None else number, known, tokens_in_common(rows))

    @property
    def mean(self) -> float:
        return fmean(self.tokens) if self.tokens else 0.0

    @property
    def longest(self) -> int:
        return max(self.tokens, default=0)

    @property
    def total(self) -> float:
        return self.number * self.mean

    def padded(self, batch: int) -> float:
        """Tokens that a row takes in a batch of so many random ones, padding counted."""
        if not self.tokens:
            return 0.0
        order = list(self.tokens)
        random.Random(0).shuffle(order)
        batch = min(batch, len(order))
        return fmean(max(order[first : first + batch]) for first in range(0, len(order) - batch + 1, batch))


def looked_at(rows: Dataset) -> Dataset:
    """Some of the rows, evenly spaced."""
    number = min(len(rows), _LOOKED_AT)
    return rows.select([place * len(rows) // number for place in range(number)])


@dataclass(frozen=True)
class Work:
    """What a stage does.

    Attributes:
        learned: tokens that pass forward and backward in training.
        differentiated: tokens that do so in scoring.
        read: tokens that pass forward.
        generated: tokens of answers.
        steps: steps of an optimizer.
        stored: bytes of weights that are written or read.
        kept: bytes on disk at its end.
        scratch: bytes on disk on its way.
    """

    learned: float = 0.0
    differentiated: float = 0.0
    read: float = 0.0
    generated: float = 0.0
    steps: float = 0.0
    stored: float = 0.0
    kept: float = 0.0
    scratch: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    @property
    def passes(self) -> float:
        """Forward passes of a token that cost the same; a backward pass counts as two."""
        return 3 * (self.learned + self.differentiated) + self.read + self.generated


def _values(work: Work) -> tuple[float, ...]:
    return tuple(vars(work).values())


@dataclass(frozen=True)
class Amounts:
    """What a run works on.

    Attributes:
        learning: rows as they are trained on.
        held_out: rows to watch training by.
        prompts: forgetting prompts; with their answers where the model does not answer them itself.
        elicits: whether it does.
        options: answers that each prompt names to choose from, in the mean; 1 where none does.
        reads_once: whether what prompts have in common is read once where nothing is trained, and each prompt once for
            all its options.
        parameters: of the model; `trained`: those of them, or of its adapter, that are trained.
        model_bytes: of its weights.
    """

    learning: Lengths
    held_out: Lengths
    prompts: Lengths
    elicits: bool
    options: float
    reads_once: bool
    parameters: int
    trained: int
    model_bytes: int

    @property
    def saved_bytes(self) -> int:
        """Of a training run's weights."""
        return self.model_bytes if self.trained >= self.parameters else FLOAT32_BYTES * self.trained


def stage_work(name: str, args: LWFConfig, amounts: Amounts, answer: float) -> Work:
    """What a stage of the method does; nothing for names that take no time.

    Args:
        name: "self_knowledge", "reference", "plain", "posterior", "scores", "effect_of_learning", "trials" or "lwf".
        args: settings of the method.
        amounts: see there.
        answer: mean length of a self-generated answer in tokens.
    """
    if name == "self_knowledge":
        return _self_knowledge(args, amounts, answer)
    if name == "reference":
        return _training(args, amounts, args.reference_share)
    if name in ("plain", "never_knew"):
        return _training(args, amounts, 1.0)
    if name == "posterior":
        return _posterior(args, amounts)
    if name in ("scores", "effect_of_learning"):
        config = args.confidence_config() if name == "scores" else ConfidenceConfig(scorer="interference")
        return _scores(config.scorer, args, amounts, answer)
    if name in ("lwf", "trials"):
        # Held out rows judge it, the plain model's loss too.
        judged = Work(read=2 * amounts.held_out.total)
        work = _training(args, amounts, 1.0) + _unlearning(args, amounts, answer) + judged
        return replace(work, kept=0.0) if name == "trials" else work
    return Work()


def _samples(args: LWFConfig, amounts: Amounts, answer: float) -> tuple[int, float]:
    """Number of pieces of self-knowledge, and tokens of each."""
    if not amounts.elicits:
        return amounts.prompts.number, amounts.prompts.mean
    if amounts.options > 1:
        answer = _OPTION_TOKENS
    return amounts.prompts.number * args.elicitation_num_samples_per_prompt, amounts.prompts.mean + answer


def _read(args: LWFConfig, amounts: Amounts, answer: float) -> float:
    """Tokens that all samples are read with once, each with the options that it was chosen among."""
    number, tokens = _samples(args, amounts, answer)
    if not amounts.reads_once:
        return number * amounts.options * tokens
    return number * (tokens - amounts.prompts.common + (amounts.options - 1) * _OPTION_TOKENS)


def _self_knowledge(args: LWFConfig, amounts: Amounts, answer: float) -> Work:
    if not amounts.elicits or args.elicitation_server_url is not None:
        return Work()
    number, _ = _samples(args, amounts, answer)
    if amounts.options > 1:
        return Work(read=_read(args, amounts, answer), stored=amounts.model_bytes)
    # The first token of an answer comes with the pass over its prompt.
    read = amounts.prompts.mean - (amounts.prompts.common if amounts.reads_once else 0)
    return Work(read=number * read, generated=number * (answer - 1), stored=amounts.model_bytes)


def updates_of(args: LWFConfig, amounts: Amounts) -> int:
    """Learning updates of a whole run."""
    return learning_updates(args, amounts.learning.number) or 0


def _training(args: LWFConfig, amounts: Amounts, share: float) -> Work:
    whole = updates_of(args, amounts)
    updates = whole if share == 1 else max(1, round(share * whole))
    batch = args.train_batch_size
    rows = updates * args.gradient_accumulation_steps * min(batch, amounts.learning.number)
    evaluations = 0.0
    if args.eval_strategy == "steps" and args.eval_steps:
        evaluations = updates / (args.eval_steps if args.eval_steps >= 1 else args.eval_steps * whole)
    elif args.eval_strategy == "epoch":
        evaluations = args.num_train_epochs * share
    saves = 0.0
    if args.save_strategy == "epoch":
        saves = args.num_train_epochs
    elif args.save_strategy == "steps":
        saves = updates / (args.save_steps if args.save_steps >= 1 else args.save_steps * whole)
    checkpoint = amounts.saved_bytes + 4 * FLOAT32_BYTES * amounts.trained
    saves = math.floor(saves)
    return Work(
        learned=rows * amounts.learning.padded(batch),
        read=evaluations * amounts.held_out.total,
        steps=updates,
        stored=amounts.model_bytes + amounts.saved_bytes + saves * checkpoint,
        kept=amounts.saved_bytes,
        scratch=checkpoint * min(saves, args.save_total_limit or saves),
    )


def _unlearning(args: LWFConfig, amounts: Amounts, answer: float) -> Work:
    updates = updates_of(args, amounts)
    due = sum(
        updates_due(args.unlearn_schedule, step, updates, args.unlearn_every, args.seed) for step in range(updates)
    )
    _, tokens = _samples(args, amounts, answer)
    rows = unlearned_rows(args, amounts) * args.unlearn_passes
    return Work(learned=due * rows * tokens, steps=0 if args.unlearn_schedule == "joint" else due)


def unlearned_rows(args: LWFConfig, amounts: Amounts) -> float:
    """Rows of a pass of an unlearning update, those that are retained and the other options counted."""
    return args.unlearn_batch_size * (2 if args.unlearn_retain_weight > 0 else 1) * amounts.options


def _posterior(args: LWFConfig, amounts: Amounts) -> Work:
    config = args.posterior_config()
    copy = FLOAT32_BYTES * amounts.trained
    work = Work(stored=2 * amounts.model_bytes + copy, kept=copy)
    if args.confidence_scorer in OF_LOSSES:
        work += Work(read=2 * min(amounts.learning.number, MOST_LEARNING_ROWS) * amounts.learning.mean)
    if Need.FISHER in scorer_named(args.confidence_scorer).needs or args.baseline is not None:
        rows = min(config.num_samples or amounts.learning.number, amounts.learning.number)
        work += Work(differentiated=rows * amounts.learning.mean, stored=copy, kept=copy)
    return work


def _scores(scorer: str, args: LWFConfig, amounts: Amounts, answer: float) -> Work:
    number, tokens = _samples(args, amounts, answer)
    work = Work(stored=amounts.model_bytes)
    for measurement in scorer_named(scorer).reads:
        if measurement is Losses:
            work += Work(read=_read(args, amounts, answer))
        elif issubclass(measurement, ReferenceLosses):
            work += Work(read=2 * _read(args, amounts, answer), stored=FLOAT32_BYTES * amounts.trained)
        else:
            work += Work(differentiated=number * tokens)
            if Need.LEARNING in measurement.needs:
                work += Work(differentiated=amounts.learning.total)
    return work
