"""Whether forgetting is expected to help, judged from the scores before any unlearning."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

import numpy as np
from scipy import stats

from graceful_forgetting.config.confidence import OF_LOSSES
from graceful_forgetting.results.result import line_search_meaning
from graceful_forgetting.selection import LEAST_LEARNED

Verdict = Literal["expected to help", "not expected to help", "not known"]

# Thresholds, each with its source. They are measurements on small worlds, not laws: `docs/log.md` has the numbers.
MIN_SAMPLES = 200
"""Fewer scored samples say nothing: the share of a tenth would rest on a score of samples or less (our choice)."""
MIN_CROSSOVERS = 1.0
"""Median α/α× from which on the quadratic term, which needs no sign to be right, outweighs the linear one."""
MIN_SEPARATION = 0.14
"""Share of the scores' rank variance that lies between tasks; what Cohen (1988) calls a large η²."""
CONFLICT = 1.0
"""Nats per token by which learning raises the loss of what conflicts, at least. World `shortcut`: 2.6 for the old rule,
.5 for what it was read from."""
HARMLESS = 0.25
"""Nats per token below which learning leaves knowledge as it is. World `shortcut`: .16 for what helps, .03 for what is
neutral."""
# What came of the default settings in the worlds, where the scores chose anything after a tenth of the updates: table
# `early_outcomes` of docs/when-it-helps.md, which a test holds these against.
EARLY_RUNS = 205
EARLY_KEPT = 0.48
"""Share of the runs whose held-out loss was the lower one; the others fell back to plain fine-tuning."""
EARLY_GAIN = 3.5
"""Mean gain over plain fine-tuning, in points of accuracy."""


@dataclass(frozen=True)
class TaskEvidence:
    """One forgetting task: samples, share chosen, median score, median interference (none where not measured)."""

    task: str
    samples: int
    chosen: float
    score: float
    interference: float | None


@dataclass(frozen=True)
class Evidence:
    """What the scores say.

    Attributes:
        samples: scored. tasks: each forgetting task, highest median score first.
        spread: 90th over 10th percentile of the overlap term ½ α² Σ F g²; none where it was not measured.
        separation: share of the variance of the scores' ranks that lies between tasks (η²); none with one task.
        crossovers: median α/α×. beyond_crossover: share of the samples with α above α×.
        disturbed: share of the samples whose loss learning raises, L(x; θ*_L) > L(x; θ_base).
        chosen_interference: mean of L(x; θ*_L) − L(x; θ_base) over the chosen samples, in nats per token.
        scorer: what ranked the samples. reference_share: of the learning updates, that θ*_L is the end of.
        selection: how much is chosen, in words. learned: share of the learning task's loss that is gone at θ*_L; none
            where it was not measured. line_search: λ* of each run that made one, see `LineSearchResult`.
    """

    samples: int
    tasks: list[TaskEvidence]
    spread: float | None
    separation: float | None
    crossovers: float | None
    beyond_crossover: float | None
    disturbed: float | None
    chosen_interference: float | None
    scorer: str = "lwf"
    reference_share: float = 1.0
    selection: str = ""
    learned: float | None = None
    line_search: tuple[float, ...] = ()


def gather_evidence(
    columns: Mapping[str, Sequence[float | None]],
    tasks: Sequence[str],
    chosen: Sequence[bool],
    interference: Sequence[float | None] | None,
    scorer: str = "lwf",
    reference_share: float = 1.0,
    selection: str = "",
    learned: float | None = None,
) -> Evidence:
    """Evidence from scored samples.

    Args:
        columns: as `score_confidence` adds them: `forgetting_confidence`, `confidence_quadratic`, `step_size`,
            `step_size_crossover`. tasks, chosen: by sample.
        interference: L(x; θ*_L) − L(x; θ_base) by sample; none where it was not measured.
        scorer, reference_share, selection, learned: of the run, see `Evidence`.

    Raises:
        ValueError: no sample has a score.
    """
    scores = columns["forgetting_confidence"]
    usable = [index for index, score in enumerate(scores) if score is not None]
    if not usable:
        raise ValueError("no sample has a score: there is nothing to judge by")
    by_task: dict[str, list[int]] = {}
    for index in usable:
        by_task.setdefault(tasks[index], []).append(index)
    overlap = _values(columns["confidence_quadratic"], usable)
    pairs = [(columns["step_size"][index], columns["step_size_crossover"][index]) for index in usable]
    ratios = [step / crossover for step, crossover in pairs if step is not None and crossover]
    raised = _values(interference, usable)
    low, high = np.quantile(overlap, [0.1, 0.9]) if overlap else (0.0, 0.0)
    return Evidence(
        samples=len(usable),
        tasks=sorted(
            (_task_evidence(task, rows, scores, chosen, interference) for task, rows in by_task.items()),
            key=lambda found: -found.score,
        ),
        spread=float(high / low) if low > 0 else None,
        separation=_separation([_values(scores, rows) for rows in by_task.values()]),
        crossovers=median(ratios) if ratios else None,
        beyond_crossover=fmean(ratio > 1 for ratio in ratios) if ratios else None,
        disturbed=fmean(value > 0 for value in raised) if raised else None,
        chosen_interference=_mean(_values(interference, [index for index in usable if chosen[index]])),
        scorer=scorer,
        reference_share=reference_share,
        selection=selection,
        learned=learned,
    )


def _values(column: Sequence[float | None] | None, rows: Sequence[int]) -> list[float]:
    return [value for index in rows if (value := column[index]) is not None] if column is not None else []


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _task_evidence(
    task: str,
    rows: Sequence[int],
    scores: Sequence[float | None],
    chosen: Sequence[bool],
    interference: Sequence[float | None] | None,
) -> TaskEvidence:
    raised = _values(interference, rows)
    return TaskEvidence(
        task=task,
        samples=len(rows),
        chosen=fmean(chosen[index] for index in rows),
        score=median(_values(scores, rows)),
        interference=median(raised) if raised else None,
    )


def _separation(groups: Sequence[Sequence[float]]) -> float | None:
    """η² of the ranks: H / (n − 1) with H of Kruskal and Wallis; 0 where all scores are equal."""
    if len(groups) < 2:
        return None
    pooled = [value for group in groups for value in group]
    if min(pooled) == max(pooled):
        return 0.0
    return float(stats.kruskal(*groups).statistic) / (len(pooled) - 1)


@dataclass(frozen=True)
class Advice:
    """The verdict and the reasons for it."""

    verdict: Verdict
    reasons: list[str]


def advise(evidence: Evidence) -> Advice:
    """What the evidence allows to expect; "not known" wherever it is thin."""
    thin = _why_thin(evidence)
    if not any(task.chosen for task in evidence.tasks):
        early = evidence.learned is not None and evidence.learned < LEAST_LEARNED
        reason = evidence.selection or "no sample is chosen, so that nothing would be unlearned"
        return Advice("not known" if early else "not expected to help", [reason])
    if evidence.reference_share < 1 and evidence.scorer in OF_LOSSES and evidence.chosen_interference is not None:
        return Advice("not known", _early(evidence) + thin)
    if thin:
        return Advice("not known", thin)
    assert evidence.chosen_interference is not None
    change = _change(evidence)
    if evidence.chosen_interference < HARMLESS:
        return Advice("not expected to help", [f"{change} (below {HARMLESS:g}): nothing of it seems to be in the way"])
    if evidence.chosen_interference < CONFLICT:
        return Advice("not known", [f"{change}: between {HARMLESS:g}, little, and {CONFLICT:g}, a clear conflict"])
    if evidence.separation is not None and evidence.separation < MIN_SEPARATION:
        found = f"η² {evidence.separation:.2f}, {MIN_SEPARATION:g} or more is clear"
        return Advice("not known", [f"the scores do not tell forgetting tasks apart ({found})"])
    reasons = [f"{change}: a clear conflict ({CONFLICT:g} or more)"]
    if evidence.separation is not None:
        reasons.append(f"the scores tell forgetting tasks apart (η² {evidence.separation:.2f})")
    return Advice("expected to help", reasons)


def _change(evidence: Evidence) -> str:
    return f"learning changes the loss of what would be unlearned by {evidence.chosen_interference:+.3g} nats per token"


def _early(evidence: Evidence) -> list[str]:
    """What a reference run of a part of the learning updates says."""
    learned = "" if evidence.learned is None else f", which remove {evidence.learned:.0%} of the learning task's loss"
    reasons = [evidence.selection] if evidence.selection else []
    return [
        *reasons,
        f"{_change(evidence)} in its first {evidence.reference_share:.0%}{learned}",
        f"of {EARLY_RUNS} runs in the worlds where anything was chosen so, {EARLY_KEPT:.0%} were better than "
        f"plain fine-tuning on held-out rows and the others fell back to it: {EARLY_GAIN:+.1f} points of "
        "accuracy in the mean; how much is chosen did not tell which (docs/when-it-helps.md)",
        "try it with held-out rows (an eval_dataset), by which the better of both is kept, or with forget_trials",
    ]


def _why_thin(evidence: Evidence) -> list[str]:
    reasons = []
    if evidence.samples < MIN_SAMPLES:
        reasons.append(f"{evidence.samples} scored samples are few (below {MIN_SAMPLES}): give more forgetting prompts")
    steps = evidence.scorer in ("lwf", "linear", "overlap")
    if not steps and evidence.scorer != "interference":
        reasons.append(f"scorer {evidence.scorer} was not measured against outcomes: use interference or lwf")
    elif steps and evidence.crossovers is None:
        reasons.append("no sample has a crossover α×: F or Δ is 0")
    # A step at the median crossover can come out below 1 by rounding.
    elif (
        steps
        and evidence.crossovers is not None
        and evidence.crossovers < MIN_CROSSOVERS
        and not math.isclose(evidence.crossovers, MIN_CROSSOVERS)
    ):
        reasons.append(
            f"α is {evidence.crossovers:.2g} of the crossover α× of the median sample: the linear term ranks the "
            "samples, which is unreliable; raise confidence_step_size"
        )
    if evidence.disturbed is None or evidence.chosen_interference is None:
        reasons.append(
            "what learning does to the loss of the samples was not measured: the posterior covers a part only"
        )
    return reasons


def advice_text(evidence: Evidence, advice: Advice, outcome: str | None = None) -> str:
    """Verdict, reasons and evidence, as the terminal shows them; first what came of the run, where that is known."""
    lines = [] if outcome is None else [f"What came of this run: {outcome}", ""]
    lines += [
        f"Forgetting is {advice.verdict}:"
        if advice.verdict != "not known"
        else "From the scores alone, whether forgetting helps is not known:"
    ]
    lines += [f"- {reason}" for reason in advice.reasons]
    lines += ["", f"Evidence ({evidence.samples} scored samples):"]
    named = {
        "spread of the overlap term (90th over 10th percentile)": evidence.spread,
        "share of rank variance between tasks (η²)": evidence.separation,
        "α in units of the crossover α×, median": evidence.crossovers,
        "share of samples with α above α×": evidence.beyond_crossover,
        "share of the learning task's loss that is gone after the reference run": evidence.learned,
        "share of samples whose loss learning raises": evidence.disturbed,
        "mean change of the loss of chosen samples by learning, nats per token": evidence.chosen_interference,
    }
    lines += [f"- {name}: {'not measured' if value is None else f'{value:.3g}'}" for name, value in named.items()]
    if evidence.line_search:
        found = median(evidence.line_search)
        lines.append(
            f"- λ* of the line search from the base model to the trained one, median of {len(evidence.line_search)} "
            f"run(s): {found:.3g} ({line_search_meaning(found)})"
        )
    lines.append("- by task (samples, share chosen, median score, median change of the loss by learning):")
    for task in evidence.tasks:
        change = "not measured" if task.interference is None else f"{task.interference:+.3g}"
        lines.append(f"    {task.task}: {task.samples}, {task.chosen:.0%}, {task.score:.4g}, {change}")
    return "\n".join(lines)
