"""What the numbers allow to be said, in words."""

from dataclasses import dataclass
from typing import Literal

from graceful_forgetting.results.arms import OTHERS, capitalised
from graceful_forgetting.results.result import TaskSummary
from graceful_forgetting.results.statistics import GapRecovered, PairedInterval
from graceful_forgetting.results.summary import arm_minus_plain
from graceful_forgetting.results.text import fixed, percent, signed

Verdict = Literal["better", "worse", "no_difference", "one_seed", "no_comparison"]
# From this many paired seeds on, an interval carries a claim; below, it is a first indication.
SEEDS_FOR_A_CLAIM = 10


@dataclass(frozen=True)
class Headline:
    """The statement about one learning task: verdict, its sentence, and further sentences."""

    task: str
    verdict: Verdict
    sentence: str
    notes: list[str]


def verdict_of(summary: TaskSummary) -> Verdict:
    """Whether the method differs from plain fine-tuning, judged by the t interval of the paired difference."""
    difference = summary.difference
    if difference is None:
        return "no_comparison"
    if difference.low is None or difference.high is None:
        return "one_seed"
    if difference.low <= 0 <= difference.high:
        return "no_difference"
    return "better" if (difference.low > 0) == summary.higher_is_better else "worse"


def interval_text(difference: PairedInterval) -> str:
    """ "95 % interval −0.010 to +0.034"; empty with one seed."""
    if difference.low is None:
        return ""
    return f"{percent(difference.confidence)} interval {signed(difference.low)} to {signed(difference.high)}"


def headline(task: str, summary: TaskSummary, method: str) -> Headline:
    """The statement on a method, by its title, that the measured seeds allow, and no stronger one."""
    verdict = verdict_of(summary)
    difference = summary.difference
    if difference is None:
        return Headline(
            task,
            verdict,
            f"No comparison: plain fine-tuning and {method} were not both run with the same seed.",
            [],
        )
    further = [*_gap_notes(summary.gap, method), *_notes_on_others(summary)]
    if verdict == "one_seed":
        sentence = (
            f"One seed shows nothing: {method} − plain is {signed(difference.difference)}, "
            "and without a second seed nobody knows how much of that is chance."
        )
        return Headline(task, verdict, sentence, ["Run more seeds to get an interval.", *further])
    numbers = f"{method} − plain = {_with_interval(difference)}, over {difference.n} paired seeds."
    if verdict == "no_difference":
        sentence = f"No difference shown: {numbers}"
        notes = [f"The interval includes 0: these seeds do not tell {method} from plain fine-tuning."]
    else:
        sentence = f"{capitalised(method)} is {verdict} than plain fine-tuning: {numbers}"
        notes = []
    if difference.n < SEEDS_FOR_A_CLAIM:
        notes.append(f"With fewer than {SEEDS_FOR_A_CLAIM} seeds this is a first indication, not a claim.")
    return Headline(task, verdict, sentence, [*notes, *further])


def _with_interval(difference: PairedInterval) -> str:
    interval = interval_text(difference)
    return signed(difference.difference) + (f", {interval}" if interval else "")


def _notes_on_others(summary: TaskSummary) -> list[str]:
    found = {title: arm_minus_plain(summary, arm) for arm, title in OTHERS.items()}
    return [f"{title} − plain = {_with_interval(paired)}." for title, paired in found.items() if paired is not None]


def _gap_notes(gap: GapRecovered | None, method: str) -> list[str]:
    if gap is None:
        return []
    if gap.fraction is None:
        return ["The never-knew reference is no better than plain fine-tuning here: there is no gap to recover."]
    note = (
        f"Share of the gap between plain and the never-knew reference ({fixed(gap.gap)}) that {method} recovers: "
        f"{percent(gap.fraction)}"
    )
    if gap.n == 1:
        return [f"{note} (one seed)."]
    if gap.low is None:
        return [f"{note}. The gap itself is not above 0 throughout these seeds, so its share has no interval."]
    return [f"{note} (bootstrap {percent(gap.confidence)} interval {percent(gap.low)} to {percent(gap.high)})."]
