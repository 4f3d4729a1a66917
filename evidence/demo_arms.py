"""The four arms that the demo is shown with, and the archived run that each is read from."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graceful_forgetting.results.result import RunResult
from graceful_forgetting.results.statistics import PairedInterval, paired_interval

ARCHIVES = Path(__file__).parent / "archives"


@dataclass(frozen=True)
class DemoArm:
    """`label` as readers see it; `archive` and `arm` say where its values are."""

    label: str
    archive: str
    arm: str

    @property
    def values(self) -> list[float]:
        """Accuracy on the learning task, a value a seed, all arms in the same order of seeds."""
        tasks = demo_result(self.archive).summary.tasks.values()
        return next(task for task in tasks if task.role == "learning").arms[self.arm].values

    def mean(self) -> PairedInterval:
        """The mean over seeds with its t interval, 95 %."""
        return paired_interval(self.values, [0.0] * len(self.values))


PLAIN = DemoArm("plain fine-tuning", "demo", "plain")
ARMS = (
    PLAIN,
    DemoArm("LWF (the paper's method)", "demo_published", "lwf"),
    DemoArm("package defaults", "demo", "lwf"),
    DemoArm("never knew", "demo", "never_knew"),
)


@cache
def demo_result(archive: str) -> RunResult:
    """An archived run of the demo."""
    return RunResult.load(ARCHIVES / f"{archive}.json")
