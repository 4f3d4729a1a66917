"""The result of an experiment: one `result.json`, from which every table and report is made.

`docs/result-schema.md` documents every field. A change of the fields raises `SCHEMA_VERSION`.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graceful_forgetting.results.schema import added, dataclass_from_plain, json_values
from graceful_forgetting.results.statistics import GapRecovered, PairedInterval
from graceful_forgetting.runtime.artifacts import read_json, write_json

SCHEMA_VERSION = 2

Arm = Literal["base", "plain", "lwf", "interference", "published", "never_knew"]
"""`lwf` is the run's own method, whatever that is (`results.arms.method_title`); others are named methods beside it."""
Role = Literal["learning", "forgetting", "other"]
"""Of a task in an experiment: what is learned, what may be forgotten, or what is evaluated beside them."""
Metric = Literal["f1", "chrf", "accuracy", "choice_accuracy", "bits_per_byte", "nll_per_token"]


@dataclass
class Device:
    """An accelerator: its name and its memory in bytes."""

    name: str
    memory_bytes: int


@dataclass
class Hardware:
    """The machine: logical CPUs, threads that torch uses, main memory in bytes, accelerators, name of the CPU."""

    cpu_count: int
    torch_threads: int
    memory_bytes: int
    devices: list[Device]
    processor: str | None = added(None)


@dataclass
class Provenance:
    """Where a result comes from. Fingerprints are content hashes; `data_fingerprints` is by data set name."""

    packages: dict[str, str]
    python: str
    platform: str
    git_commit: str | None
    hardware: Hardware
    model_fingerprint: str
    data_fingerprints: dict[str, str]
    posterior_fingerprint: str | None
    seeds: list[int]
    command_line: list[str]


@dataclass
class StageResult:
    """One stage: whether it ran or was reused, seconds, peak bytes of process and device, cache key, counts.

    For a reused stage, seconds and peak memory are those of the run that made it.
    """

    name: str
    status: Literal["run", "reused"]
    seconds: float
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    key: str
    detail: dict[str, Any]


@dataclass
class LogEntry:
    """One line of the training log, at learning step `step`; None where not measured or not finite."""

    step: int
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    unlearn_loss: float | None = None
    unlearn_grad_norm: float | None = None
    unlearn_updates: int | None = None


@dataclass
class ChoiceMetrics:
    """Multiple choice by likelihood, nothing generated: the option with the highest log-likelihood is the answer.

    `accuracy` compares log-likelihoods, `accuracy_per_byte` log-likelihoods per UTF-8 byte; `chance` is the mean of 1 /
    number of options, and the adjusted values are (accuracy − chance) / (1 − chance): 0 for guessing, 1 for all right.
    """

    accuracy: float
    accuracy_per_byte: float
    chance: float
    adjusted: float
    adjusted_per_byte: float


@dataclass
class TaskMetrics:
    """One model on one task's test set; None where not measured.

    `accuracy`, `correct`, `unparsable` (outputs without a readable answer, counted as wrong), `f1` and `chrf` are of
    generated answers; `choice`, `bits_per_byte` and `nll_per_token` of likelihoods. `old` counts answers that older
    knowledge gives, of the likeliest options where nothing was generated; None where no row has one.
    """

    role: Role
    accuracy: float | None
    correct: int | None
    total: int
    bits_per_byte: float | None = None
    nll_per_token: float | None = None
    unparsable: int | None = None
    f1: float | None = None
    chrf: float | None = None
    choice: ChoiceMetrics | None = None
    old: int | None = added(None)


@dataclass
class GuardResult:
    """Whether the guard stopped unlearning, why, and at which learning step; and what came of it in the end.

    `held_out_loss` and `plain_held_out_loss` (nats per token) are those of the trained model and of plain fine-tuning,
    None where they were not compared; `fell_back`: the latter's weights are the result.
    """

    stopped: bool
    reason: str | None
    step: int | None
    fell_back: bool = added(False)
    held_out_loss: float | None = added(None)
    plain_held_out_loss: float | None = added(None)

    def events(self) -> list[str]:
        """What the guard did, a sentence each; none if nothing."""
        events = [f"the guard stopped unlearning at learning update {self.step}: {self.reason}"] if self.stopped else []
        if self.fell_back:
            events.append(
                f"forgetting did not help (held-out loss {self.held_out_loss:.4g}, that of plain fine-tuning "
                f"{self.plain_held_out_loss:.4g} nats per token): the model is that of plain fine-tuning"
            )
        return events


@dataclass
class LineSearchResult:
    """Where on the line from the base weights (0) to those after training (1) the model is (`chosen`).

    `losses`: the held-out loss in nats per token at each point that was tried, None where it was not finite.
    """

    chosen: float
    losses: dict[str, float | None]

    def text(self) -> str:
        """What was found, in a sentence."""
        trained, best = (self.losses[f"{share:g}"] for share in (1, self.chosen))
        found = f"held-out loss {_shown(best)}" + ("" if self.chosen == 1 else f", {_shown(trained)} at 1")
        return (
            f"the line search from the base model (0) to the trained one (1) ended at {self.chosen:g} ({found} nats "
            f"per token): {line_search_meaning(self.chosen)}"
        )


def line_search_meaning(chosen: float) -> str:
    """What the point that a line search ends at says of learning and forgetting."""
    if chosen > 1:
        return "going further is better, so what the base model knew is in the way and forgetting may help"
    if chosen < 1:
        return "going less far is better, so learning has lost something that rehearsal, not forgetting, brings back"
    return "neither going further nor less far is better"


def _shown(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4g}"


@dataclass
class TrainingRunResult:
    """One arm under one seed (None for the base model, which no seed touches); `metrics` is by task.

    `neutral_bits_per_byte` is of the neutral text, None without one; `lm_eval` has the numbers of lm-evaluation-harness
    by its task and metric, empty where none was asked for. `line_search`: None where there was none.
    """

    arm: Arm
    seed: int | None
    training_log: list[LogEntry]
    metrics: dict[str, TaskMetrics]
    unlearn_updates: int
    guard: GuardResult
    neutral_bits_per_byte: float | None = None
    lm_eval: dict[str, dict[str, float]] = field(default_factory=dict)
    line_search: LineSearchResult | None = added(None)

    def events(self) -> list[str]:
        """What happened to its weights beside learning and unlearning, a sentence each; none if nothing."""
        return self.guard.events() + ([] if self.line_search is None else [self.line_search.text()])


@dataclass
class TaskSelection:
    """Samples of one forgetting task: scored, chosen; `kind`: ground truth where it is known."""

    total: int
    chosen: int
    kind: str | None


@dataclass
class TrialsResult:
    """What trial runs said: the candidate that was chosen, and the held-out loss of each, in nats per token.

    `fraction`: share of the learning updates that a trial has.
    """

    chosen: str
    fraction: float
    held_out_losses: dict[str, float | None]


@dataclass
class SelectionResult:
    """What was chosen for unlearning.

    `cut`: the confidence at the boundary, None where no single one exists. `crossover_quantiles`: quantiles
    over samples (keyed "0.1", "0.5", ...) of the step size at which the quadratic term equals the linear
    one. `trials`: None where the scores alone decided.
    """

    strategy: str
    scored: int
    chosen: int
    cut: float | None
    step_size: float | None
    crossover_quantiles: dict[str, float]
    tasks: dict[str, TaskSelection]
    trials: TrialsResult | None = added(None)


@dataclass
class ArmSummary:
    """One arm on one task over its seeds; `sd` (n − 1 in the denominator) is None with one seed."""

    n: int
    mean: float
    sd: float | None
    seeds: list[int | None]
    values: list[float]


@dataclass
class TaskSummary:
    """One task: every arm; the paired difference of `lwf` to plain, and the gap that it recovers towards never-knew."""

    role: Role
    metric: Metric
    higher_is_better: bool
    arms: dict[str, ArmSummary]
    difference: PairedInterval | None
    gap: GapRecovered | None

    def by_seed(self, arm: str) -> dict[int | None, float]:
        """The values of an arm; empty where it was not run."""
        found = self.arms.get(arm)
        return {} if found is None else dict(zip(found.seeds, found.values, strict=True))


@dataclass
class Summary:
    """What the runs say together, by task."""

    tasks: dict[str, TaskSummary]


@dataclass
class RunResult:
    """Everything that one experiment measured."""

    name: str
    created: str
    config: dict[str, Any]
    provenance: Provenance
    stages: list[StageResult]
    runs: list[TrainingRunResult]
    selection: SelectionResult | None
    summary: Summary
    schema_version: int = field(default=SCHEMA_VERSION)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, `schema_version` first; a number that is not finite becomes null."""
        content = json_values(dataclasses.asdict(self))
        return {"schema_version": content.pop("schema_version"), **content}

    @classmethod
    def from_json(cls, content: Any, where: str = "result") -> "RunResult":
        """Read what `to_json` wrote; `where` names the source in errors. In a file of version 1, what it did not
        measure is None.

        Raises `ValueError` for another schema version, a missing or unknown field, or a value of the wrong
        type.
        """
        if not isinstance(content, dict) or "schema_version" not in content:
            raise ValueError(f"field {where}.schema_version is missing: this is not a result file")
        version = content["schema_version"]
        if version == 1:
            content = _from_version_1(content)
        elif version != SCHEMA_VERSION:
            raise ValueError(
                f"{where}.schema_version={version!r}: this version of graceful-forgetting reads schema "
                f"version {SCHEMA_VERSION} and 1 only; read the file with the version that wrote it, or run the "
                "experiment again"
            )
        return dataclass_from_plain(cls, content, where)

    def save(self, path: str | Path) -> Path:
        """Write the result file, atomically."""
        write_json(path, self.to_json())
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "RunResult":
        """Read a result file. Raises as `from_json` does, and `FileNotFoundError`."""
        return cls.from_json(read_json(path), str(path))


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """A result of version 1 with the fields that version 2 added, as not measured."""
    upgraded = {**content, "schema_version": 2}
    if not isinstance(content.get("runs"), list):
        return upgraded
    upgraded["runs"] = [_with({"neutral_bits_per_byte": None, "lm_eval": {}}, run) for run in content["runs"]]
    for run in upgraded["runs"]:
        if isinstance(run, dict) and isinstance(run.get("metrics"), dict):
            added = {"f1": None, "chrf": None, "choice": None}
            run["metrics"] = {task: _with(added, metrics) for task, metrics in run["metrics"].items()}
    return upgraded


def _with(added: dict[str, Any], value: Any) -> Any:
    """The object with further fields; what is none is refused by name where it is read."""
    return {**added, **value} if isinstance(value, dict) else value
