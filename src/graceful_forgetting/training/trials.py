"""Stage 4, by trial: of several selections, the one that is seen to help the learning task; or none."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from graceful_forgetting.config import LWFConfig, SelectionConfig, changed
from graceful_forgetting.posterior.divergence import NonFiniteLossError
from graceful_forgetting.posterior.reference import reference_args
from graceful_forgetting.runtime.distributed import process_count
from graceful_forgetting.selection import SOURCE_INDEX, select_with_audit

NOTHING = "nothing"
BY_SCORE = "by score"
# Begins the name of a candidate that is unlearned before learning: where no forgetting task's name can stand.
FIRST = "first: "
# In the record of a choice: settings of unlearning that belong to it, in place of those of the run.
SETTINGS = "unlearning"
FORGET_FIRST = {"unlearn_schedule": "early", "unlearn_objective": "uniform"}


@dataclass(frozen=True)
class Candidate:
    """What may be unlearned: chosen rows with `source_index`, and the record of the choice, ready for JSON."""

    selected: Dataset
    audit: dict[str, Any]


def candidates(
    scored: Dataset, config: SelectionConfig, first: bool = False, learned: float | None = None
) -> dict[str, Candidate]:
    """The selections that are tried, by name: nothing; what `config` selects; and each forgetting task as a whole.

    A task is left out where it is all that there is to forget, and so is one that is what `config` selects.

    Args:
        scored: rows with a score and a column `forgetting_task`.
        config: how samples are selected by their scores.
        first: try all but nothing a second time, unlearned before learning (`forget_trials='both'`).
        learned: see `select_for_unlearning`.

    Raises:
        ValueError: as `select_for_unlearning`.
    """
    by_score = Candidate(*select_with_audit(scored, **asdict(config), learned=learned))
    audit = by_score.audit
    found = {NOTHING: Candidate(by_score.selected.select([]), _nothing_chosen(audit))}
    if audit["chosen"] > 0:
        found[BY_SCORE] = by_score
    known = {frozenset(by_score.selected[SOURCE_INDEX])}
    for task, counts in audit["tasks"].items():
        if counts["eligible"] in (0, audit["eligible"]):
            continue
        whole = Candidate(*select_with_audit(scored, strategy="highest", quotas={task: counts["eligible"]}))
        rows = frozenset(whole.selected[SOURCE_INDEX])
        if rows not in known:
            known.add(rows)
            found[f"task {task}"] = whole
    if first:
        found |= {
            FIRST + name: Candidate(candidate.selected, {**candidate.audit, SETTINGS: FORGET_FIRST})
            for name, candidate in found.items()
            if name != NOTHING
        }
    return found


def most_candidates(tasks: Sequence[str], first: bool) -> list[str]:
    """Names that `candidates` may have at most, before any score is known; `tasks`: names of the forgetting tasks."""
    names = [BY_SCORE, *(f"task {task}" for task in tasks if len(tasks) > 1)]
    return [NOTHING, *names, *(FIRST + name for name in names if first)]


def is_by_score(name: str) -> bool:
    """Whether this candidate is what the scores select."""
    return name.removeprefix(FIRST) == BY_SCORE


def _nothing_chosen(audit: Mapping[str, Any]) -> dict[str, Any]:
    tasks = {task: {**counts, "chosen": 0, "cut_score": None} for task, counts in audit["tasks"].items()}
    return {**audit, "chosen": 0, "tasks": tasks, "cut_score": None, "rows": []}


def loss_unless_diverged(name: str, held_out_loss: Callable[[], float]) -> float | None:
    """Make the trial run of candidate `name`; its held-out loss, None where unlearning it makes training diverge.

    Raises:
        NonFiniteLossError: training diverges with nothing unlearned, so that no candidate is to blame; or one of
            several processes diverges, which the others cannot see and would wait for.
    """
    try:
        loss = held_out_loss()
    except NonFiniteLossError:
        if name == NOTHING or process_count() > 1:
            raise
        return None
    return loss if math.isfinite(loss) else None


def chosen_by_trial(tried: Mapping[str, Candidate], losses: Mapping[str, float | None]) -> Candidate:
    """The candidate with the lowest held-out loss; the first of equal ones, so that nothing is before anything.

    Args:
        tried: candidates by name, nothing first.
        losses: held-out loss after the trial run of each, in nats per token; None loses: it diverged.

    Returns:
        the candidate, with the record of the trials in its audit under `trials`.
    """
    # NaN compares as false with everything, so that it could win where it comes first.
    known = {name: math.inf if loss is None or math.isnan(loss) else loss for name, loss in losses.items()}
    best = min(tried, key=lambda name: known[name])
    record = {"chosen": best, "fraction": 1.0, "held_out_losses": {name: losses[name] for name in tried}}
    return Candidate(tried[best].selected, {**tried[best].audit, "trials": record})


def trial_args(args: LWFConfig, output_dir: str | Path) -> LWFConfig:
    """The settings of a trial run: those of `args`, with nothing saved or reported."""
    return changed(reference_args(args, output_dir), forget_trials="none", guard_fallback=False)


def describe(audit: Mapping[str, Any]) -> str:
    """What the trials said, in one line; `audit` is that of `chosen_by_trial`."""
    trials = audit["trials"]
    losses = ", ".join(
        f"{name} {'diverged' if loss is None else f'{loss:.4g}'}" for name, loss in trials["held_out_losses"].items()
    )
    return f"Held-out loss in nats per token when trying to unlearn: {losses}. Unlearned is: {trials['chosen']}"
