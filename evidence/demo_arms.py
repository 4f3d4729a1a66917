"""The four arms of the demo, as its archived run of ten seeds has them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graceful_forgetting.results.result import RunResult
from graceful_forgetting.results.statistics import PairedInterval, paired_interval

ARCHIVES = Path(__file__).parent / "archives"


@dataclass(frozen=True)
class DemoArm:
    """An arm of the demo; `label` as readers see it."""

    label: str
    arm: str

    @property
    def values(self) -> list[float]:
        """Accuracy on the learning task, a value a seed, all arms in the same order of seeds."""
        tasks = demo_result().summary.tasks.values()
        return next(task for task in tasks if task.role == "learning").arms[self.arm].values

    def mean(self) -> PairedInterval:
        """The mean over seeds with its t interval, 95 %."""
        return paired_interval(self.values, [0.0] * len(self.values))


ARMS = (
    DemoArm("plain fine-tuning", "plain"),
    DemoArm("LWF", "lwf"),
    DemoArm("by interference (default)", "interference"),
    DemoArm("never knew", "never_knew"),
)


@cache
def demo_result() -> RunResult:
    """The archived run."""
    return RunResult.load(ARCHIVES / "demo_arms.json")
