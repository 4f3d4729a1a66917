"""What the numbers allow to be said, in words."""

from dataclasses import dataclass
from typing import Literal

from graceful_forgetting.report.scores import score_name
from graceful_forgetting.results.arms import OTHERS, OWN, capitalised, method_title
from graceful_forgetting.results.result import Metric, RunResult, TaskSummary
from graceful_forgetting.results.statistics import GapRecovered, PairedInterval
from graceful_forgetting.results.summary import arm_minus_plain
from graceful_forgetting.results.text import measured, number, percent

Verdict = Literal["better", "worse", "no_difference", "one_seed", "no_comparison"]
# From this many paired seeds on, an interval carries a claim; below, it is a first indication.
SEEDS_FOR_A_CLAIM = 10
METRICS_IN_WORDS: dict[Metric, str] = {
    "f1": "words shared with the right answer, F1 from 0 to 1",
    "chrf": "overlap with the right text, chrF from 0 to 100",
    "accuracy": "test questions answered right, in %",
    "choice_accuracy": "right option likeliest, from 0 for guessing to 1 for always",
    "bits_per_byte": "bits per byte of the right answers, lower is better",
    "nll_per_token": "nats per token of the right answers, lower is better",
}


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


def interval_text(difference: PairedInterval, metric: str = "") -> str:
    """ "95 % interval −0.010 to +0.034"; empty with one seed. Of accuracies in percentage points."""
    if difference.low is None or difference.high is None:
        return ""
    low, high = (measured(bound, metric, sign=True) for bound in (difference.low, difference.high))
    return f"{percent(difference.confidence)} interval {low} to {high}"


def compared(result: RunResult) -> str:
    """What the models are whose numbers stand side by side, for a reader who has read nothing else."""
    method, selection, config = method_title(result.config), result.selection, result.config
    plain = (
        "Two models are compared. Both start from the same base model and learn the same rows. One is fine-tuned as "
        f"usual (plain). The other ({method})"
    )
    if config.get("baseline") is not None and not config.get("unlearn_every"):
        return f"{plain} is fine-tuned by that method."
    if selection is None:
        return f"{plain} also unlearns answers of its own."
    name, unit = score_name(config)
    which = {
        "highest": f"those with the highest {name}",
        "lowest": f"those with the lowest {name}",
        "random": "drawn at random",
        "weighted": f"weighted by their {name}",
    }.get(selection.strategy, f"those with {name}" + _at_least(selection.cut, unit))
    return (
        f"{plain} also unlearns {number(selection.chosen)} of the base model's {number(selection.scored)} answers to "
        f"the forgetting prompts, {which}."
    )


def _at_least(cut: float | None, unit: str) -> str:
    return " above a limit" if cut is None else f" of at least {number(cut, 3)} {unit}".rstrip()


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
    further = [*_gap_notes(summary.gap, method, summary.metric), *_notes_on_others(summary)]
    numbers = _numbers(summary, difference, method)
    if verdict == "one_seed":
        sentence = f"Measured with one seed: {numbers}. How much of that is chance, one seed cannot tell."
        return Headline(task, verdict, sentence, ["Run more seeds to get an interval (--num_seeds 10).", *further])
    numbers += f", over {difference.n} paired seeds."
    if verdict == "no_difference":
        sentence = f"No difference shown: {numbers}"
        notes = [f"The interval includes 0: these seeds do not tell {method} from plain fine-tuning."]
    else:
        sentence = f"{capitalised(method)} is {verdict} than plain fine-tuning: {numbers}"
        notes = []
    if difference.n < SEEDS_FOR_A_CLAIM:
        notes.append(f"With fewer than {SEEDS_FOR_A_CLAIM} seeds this is a first indication, not a claim.")
    return Headline(task, verdict, sentence, [*notes, *further])


def _numbers(summary: TaskSummary, difference: PairedInterval, method: str) -> str:
    """ "LWF 71.0, plain fine-tuning 61.0 (test questions answered right, in %), difference +10.0, 95 % ..."."""
    own, plain = (measured(summary.arms[arm].mean, summary.metric) for arm in (OWN, "plain"))
    found = _with_interval(difference, summary.metric)
    return f"{method} {own}, plain fine-tuning {plain} ({METRICS_IN_WORDS[summary.metric]}), difference {found}"


def _with_interval(difference: PairedInterval, metric: str) -> str:
    interval = interval_text(difference, metric)
    return measured(difference.difference, metric, sign=True) + (f", {interval}" if interval else "")


def _notes_on_others(summary: TaskSummary) -> list[str]:
    found = {title: arm_minus_plain(summary, arm) for arm, title in OTHERS.items()}
    return [
        f"{title} − plain = {_with_interval(paired, summary.metric)}."
        for title, paired in found.items()
        if paired is not None
    ]


def _gap_notes(gap: GapRecovered | None, method: str, metric: Metric) -> list[str]:
    if gap is None:
        return []
    if gap.fraction is None:
        return ["The never-knew reference is no better than plain fine-tuning here: there is no gap to recover."]
    note = (
        f"Share of the gap between plain and the never-knew reference ({measured(gap.gap, metric)}) that {method} "
        f"recovers: {percent(gap.fraction)}"
    )
    if gap.n == 1:
        return [f"{note} (one seed)."]
    if gap.low is None:
        return [f"{note}. The gap itself is not above 0 throughout these seeds, so its share has no interval."]
    return [f"{note} (bootstrap {percent(gap.confidence)} interval {percent(gap.low)} to {percent(gap.high)})."]
