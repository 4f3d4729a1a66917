"""What the method costs over plain fine-tuning, from the times of a run's stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from graceful_forgetting.results.result import StageResult
from graceful_forgetting.results.text import duration

# Stages before training, which all seeds share.
PREPARATION = ("self_knowledge", "posterior", "scores", "selection")
# Training runs before that of the method, together under their first name. A method without a reference run of its own
# has the first plain one.
RUNS = (REFERENCE := "reference", "trials")


@dataclass(frozen=True)
class MethodCost:
    """Seconds of the stages, each as the run that made it took.

    Attributes:
        plain: one plain fine-tuning run (median over seeds).
        preparation: stages before training, by name, a reference run of the method's own among them.
        unlearning: one fine-tuning run with unlearning (median over seeds).
        seeds: runs with unlearning that share the preparation.
    """

    plain: float
    preparation: dict[str, float]
    unlearning: float
    seeds: int

    @property
    def with_reference_at_hand(self) -> float:
        """One run of the method over one of plain fine-tuning, where θ*_L is there already."""
        return (self._shared + self.unlearning) / self.plain

    @property
    def with_reference(self) -> float:
        """The same where the reference run is made for it."""
        return self.with_reference_at_hand + self.preparation.get(REFERENCE, self.plain) / self.plain

    @property
    def per_seed(self) -> float:
        """The first where the seeds share the preparation."""
        return (self._shared / self.seeds + self.unlearning) / self.plain

    @property
    def _shared(self) -> float:
        return sum(seconds for name, seconds in self.preparation.items() if name != REFERENCE)


def method_cost(stages: Sequence[StageResult]) -> MethodCost | None:
    """The cost of the method by these stages of a run; None where an arm was not trained."""
    by_name = {stage.name: stage.seconds for stage in stages}
    plain = [seconds for name, seconds in by_name.items() if name.startswith("plain/")]
    unlearning = [seconds for name, seconds in by_name.items() if name.startswith("lwf/")]
    if not plain or not unlearning or min(plain) <= 0:
        return None
    preparation = {name: by_name[name] for name in PREPARATION if name in by_name}
    for kind in RUNS:
        seconds = [taken for name, taken in by_name.items() if name.startswith(f"{kind}/")]
        preparation |= {kind: sum(seconds)} if seconds else {}
    return MethodCost(median(plain), preparation, median(unlearning), len(unlearning))


def cost_text(stages: Sequence[StageResult], method: str) -> str:
    """The cost of the run's own method, by its title, in plain text, a line a stage; empty where it is not known."""
    cost = method_cost(stages)
    if cost is None:
        return ""
    rows = [(name.replace("_", "-"), seconds) for name, seconds in cost.preparation.items()]
    rows.append(("fine-tuning with unlearning", cost.unlearning))
    width = max(len(name) for name, _ in rows)
    lines = [f"cost of {method} over plain fine-tuning ({duration(cost.plain)} a run):"]
    lines += [f"  {name.ljust(width)}  {seconds / cost.plain:5.2f} x  {duration(seconds):>9}" for name, seconds in rows]
    at_hand, whole = cost.with_reference_at_hand, cost.with_reference
    lines.append(f"  together {at_hand:.2f} x where the reference run is at hand, {whole:.2f} x where it is not")
    if cost.seeds > 1:
        lines.append(f"  {cost.per_seed:.2f} x a seed where {cost.seeds} seeds share the stages before training")
    return "\n".join(lines)
