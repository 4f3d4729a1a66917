"""Stage 4 of the method: which scored samples are unlearned, and a record of why."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Value
from scipy.stats import rankdata

from graceful_forgetting.config import SelectionConfig, SelectionStrategy
from graceful_forgetting.config.selection import GAP_BOUNDS

SOURCE_INDEX = "source_index"
WEIGHT_COLUMN = "unlearn_weight"
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
LEAST_LEARNED = 0.05
"""Smallest share of its loss that the learning task must have lost for a threshold to shrink with it: below, what
happens to other rows is too small to be told from rounding in 16 bits."""


def select_for_unlearning(
    scored: Dataset,
    *,
    fraction: float | None = None,
    count: int | None = None,
    strategy: SelectionStrategy | None = None,
    threshold: float | None = None,
    quotas: Mapping[str, float] | str | None = None,
    task_column: str = "forgetting_task",
    score_column: str = "forgetting_confidence",
    seed: int = 42,
    learned: float | None = None,
) -> Dataset:
    """Choose the samples to unlearn by their score.

    One of `fraction`, `count`, `threshold` and `quotas` says how many, unless the strategy finds out itself ("gap",
    "weighted"); where none does, a fraction of 0.25. Rows whose score is null or not finite are never chosen and are no
    part of what a fraction refers to.

    Args:
        scored: rows with a column `score_column`.
        fraction: share of the rows with a score, in (0, 1]; rounded to the nearest number, at least one row.
        count: number of rows.
        strategy: "highest" or "lowest" score; "random" (same pool, order drawn from `seed`); "threshold": every row
            whose score is at least `threshold`, which may be none; "relative": every row whose score is at least
            `threshold` · max(0.05, `learned`); "gap": the highest scores, as many as lie above the
            largest gap between two neighbours in the sorted scores (the first of equal gaps), but 5 % to 50 % of the
            rows with a score; "weighted": every row
            with a score, and a column `unlearn_weight`, 2 · rank / (n + 1) with rank 1 for the lowest of n scores
            (equal scores share their mean rank), so that the mean weight is 1. Unset: "threshold" where a threshold is
            given, else "highest".
        threshold: lowest score chosen; with strategies "threshold" and "relative" only.
        quotas: for each forgetting task by name a share of its rows (float in (0, 1]) or a number of rows
            (int); nothing is chosen from a task that is not named. JSON text is accepted.
        task_column: column with the name of a row's forgetting task; needed for `quotas`.
        score_column: column with the score.
        seed: seed of strategy "random"; the others do not use it.
        learned: with strategy "relative", the share of the learning task's loss at θ_base that is gone at θ*_L, where
            the scores were taken. To first order both grow with the length of learning, so that what is chosen does
            not hang on it. Not known, 0 or less (learning has failed), and above 1 count as 1.

    Returns:
        The chosen rows, best first (by `strategy`, ties by row index), with a column `source_index`: the
        row's index in `scored`; with "weighted" also `unlearn_weight`.

    Raises:
        TypeError: `scored` is not a `datasets.Dataset`.
        ValueError: a setting out of range or in conflict, a missing column, an unknown task in `quotas`, more
            rows asked for than have a score, or no row that has one.
    """
    return select_with_audit(
        scored,
        fraction=fraction,
        count=count,
        strategy=strategy,
        threshold=threshold,
        quotas=quotas,
        task_column=task_column,
        score_column=score_column,
        seed=seed,
        learned=learned,
    )[0]


def select_with_audit(
    scored: Dataset,
    *,
    fraction: float | None = None,
    count: int | None = None,
    strategy: SelectionStrategy | None = None,
    threshold: float | None = None,
    quotas: Mapping[str, float] | str | None = None,
    task_column: str = "forgetting_task",
    score_column: str = "forgetting_confidence",
    seed: int = 42,
    learned: float | None = None,
) -> tuple[Dataset, dict[str, Any]]:
    """`select_for_unlearning`, and a record of what was chosen and why, ready for JSON.

    The record has: `settings`; the numbers `total`, `eligible`, `chosen`; `not_eligible` (number of rows by
    reason); `tasks` (`total`, `eligible`, `chosen`, `cut_score` of each; empty without a task column);
    `threshold` (the lowest score that may be chosen, null without one);
    `cut_score` (last score chosen; null for "random" and if none is); `score_quantiles` of the eligible rows; and
    `rows`, the chosen ones in their order, with `index`, `task`, `score`, `linear` and `quadratic` (null where there
    are no such columns), `rank` among the eligible rows (from 1) and `reason`.
    """
    config = SelectionConfig(
        strategy=strategy,
        fraction=fraction,
        count=count,
        threshold=threshold,
        quotas=quotas if quotas is None or isinstance(quotas, str) else dict(quotas),
        seed=seed,
    )
    _check_columns(scored, config, task_column, score_column)
    pool = _pool(scored, task_column, score_column)
    order = _ranked(pool.scores, config)
    threshold = _lowest_chosen(config, learned)
    chosen = _choose(order, pool, config, threshold)
    selected = _rows(scored, chosen).add_column(SOURCE_INDEX, chosen, feature=Value("int64"))
    if config.strategy == "weighted":
        selected = selected.add_column(WEIGHT_COLUMN, _rank_weights([pool.scores[index] for index in chosen]))
    settings = asdict(config) | {"task_column": task_column, "score_column": score_column, "learned": learned}
    return selected, _audit(scored, pool, order, chosen, settings, threshold)


def select_retained(
    scored: Dataset,
    selected: Dataset,
    task_column: str = "forgetting_task",
    score_column: str = "forgetting_confidence",
) -> Dataset | None:
    """The rows with a score that unlearning should leave as they are: all that are not in `selected`.

    Args:
        scored: rows with a column `score_column`.
        selected: what `select_for_unlearning` chose of them, with `source_index`.

    Returns:
        The rows, lowest score first; None where every row with a score is selected.
    """
    pool = _pool(scored, task_column, score_column)
    taken = set(selected[SOURCE_INDEX])
    lowest = sorted(pool.scores, key=lambda index: pool.scores[index])
    kept = [index for index in lowest if index not in taken]
    return scored.select(kept) if kept else None


@dataclass(frozen=True)
class _Pool:
    """The rows that may be chosen: their scores by row index, and their tasks ("" without a task column)."""

    scores: dict[int, float]
    tasks: list[str]
    not_eligible: dict[str, int]


def save_selected(selected: Dataset, folder: Path) -> None:
    """Write selected rows, possibly none, for `datasets.load_from_disk`."""
    # Left to itself, datasets 5.2 writes no file for no row, and cannot read that.
    selected.save_to_disk(str(folder), num_shards=1)


def _rows(scored: Dataset, chosen: Sequence[int]) -> Dataset:
    # `select` of no row keeps a table that `add_column` of datasets 5.2 cannot add to.
    empty: dict[str, list[Any]] = {name: [] for name in scored.column_names}
    return scored.select(chosen) if chosen else Dataset.from_dict(empty, features=scored.features)


def _check_columns(scored: Dataset, config: SelectionConfig, task_column: str, score_column: str) -> None:
    if not isinstance(scored, Dataset):
        raise TypeError(f"scored must be a datasets.Dataset, not {type(scored).__name__}")
    columns = scored.column_names
    needed = {score_column: "the score"} | ({task_column: "quotas"} if config.quotas is not None else {})
    for name, purpose in needed.items():
        if name not in columns:
            raise ValueError(
                f"scored has no column {name!r} (for {purpose}); its columns: {', '.join(columns) or 'none'}"
            )
    added = [SOURCE_INDEX] + ([WEIGHT_COLUMN] if config.strategy == "weighted" else [])
    for name in added:
        if name in columns:
            raise ValueError(
                f"scored has a column {name!r}, which selection adds; select from the whole scored data set, or "
                "rename the column"
            )
    if len(scored) == 0:
        raise ValueError("scored has no rows: there is nothing to select from")


def _pool(scored: Dataset, task_column: str, score_column: str) -> _Pool:
    plain = scored.with_format(None)
    scores: dict[int, float] = {}
    not_eligible: Counter[str] = Counter()
    for index, score in enumerate(plain[score_column]):
        if score is None:
            not_eligible["no score"] += 1
        elif not math.isfinite(score):
            not_eligible["score not finite"] += 1
        else:
            scores[index] = score
    if not scores:
        reasons = ", ".join(f"{number} x {reason}" for reason, number in not_eligible.items())
        raise ValueError(f"scored: no row has a usable score in {score_column!r} ({reasons}); score the rows first")
    named = task_column in scored.column_names
    tasks = [str(task) for task in plain[task_column]] if named else [""] * len(scored)
    return _Pool(scores, tasks, dict(not_eligible))


def _ranked(scores: Mapping[int, float], config: SelectionConfig) -> list[int]:
    """Eligible rows, best first; equal scores in the order of their rows."""
    if config.strategy == "random":
        return random.Random(config.seed).sample(list(scores), len(scores))
    # The sort is stable in both directions, so that ties stay in row order.
    return sorted(scores, key=lambda index: scores[index], reverse=config.strategy != "lowest")


def _lowest_chosen(config: SelectionConfig, learned: float | None) -> float | None:
    if config.threshold is None or config.strategy != "relative":
        return config.threshold
    share = learned if learned is not None and learned > 0 else 1.0
    return config.threshold * min(1.0, max(LEAST_LEARNED, share))


def _choose(order: Sequence[int], pool: _Pool, config: SelectionConfig, threshold: float | None) -> list[int]:
    if isinstance(config.quotas, dict):
        return _choose_by_task(order, pool, config.quotas)
    if threshold is not None:
        return [index for index in order if pool.scores[index] >= threshold]
    if config.count is not None:
        return list(order[: _number("count", config.count, len(order))])
    if config.strategy == "gap":
        return list(order[: _above_largest_gap([pool.scores[index] for index in order])])
    if config.strategy == "weighted":
        return list(order)
    assert config.fraction is not None, "SelectionConfig has checked that one of the four is set"
    return list(order[: _number("fraction", float(config.fraction), len(order))])


def _above_largest_gap(scores: Sequence[float]) -> int:
    """How many of the descending scores lie above the largest gap that the bounds allow; at least one."""
    fewest = max(1, round(GAP_BOUNDS[0] * len(scores)))
    most = max(fewest, round(GAP_BOUNDS[1] * len(scores)))
    # Below the last score there is no gap.
    candidates = range(fewest, min(most, len(scores) - 1) + 1)
    return max(candidates, key=lambda number: scores[number - 1] - scores[number], default=fewest)


def _rank_weights(scores: Sequence[float]) -> list[float]:
    return [float(2 * rank / (len(scores) + 1)) for rank in rankdata(scores)]


def _choose_by_task(order: Sequence[int], pool: _Pool, quotas: Mapping[str, float]) -> list[int]:
    if not quotas:
        raise ValueError("quotas={} names no forgetting task; name one, or choose by a share, a count or a threshold")
    unknown = sorted(set(quotas) - set(pool.tasks))
    if unknown:
        raise ValueError(
            f"quotas={dict(quotas)!r} names unknown forgetting tasks: {', '.join(unknown)}; there are: "
            f"{', '.join(sorted(set(pool.tasks)))}"
        )
    available = Counter(pool.tasks[index] for index in order)
    left = {task: _number(f"quotas[{task!r}]", quota, available[task]) for task, quota in quotas.items()}
    chosen = []
    for index in order:
        task = pool.tasks[index]
        if left.get(task, 0) > 0:
            left[task] -= 1
            chosen.append(index)
    return chosen


def _number(name: str, wanted: float, available: int) -> int:
    """Rows that a count (int) or a share (float) of the available rows stands for."""
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        raise ValueError(f"{name}={wanted!r} is not valid: it must be a share in (0, 1] or a whole number of rows")
    if available == 0:
        raise ValueError(f"{name}={wanted}: there is no row with a score to choose from")
    if isinstance(wanted, int):
        if not 1 <= wanted <= available:
            raise ValueError(f"{name}={wanted} is not valid: it must be from 1 to {available}, the rows with a score")
        return wanted
    if not 0 < wanted <= 1:
        raise ValueError(f"{name}={wanted} is not valid: a share must be in (0, 1] (a number of rows is an int)")
    return max(1, round(wanted * available))


def _audit(
    scored: Dataset,
    pool: _Pool,
    order: Sequence[int],
    chosen: Sequence[int],
    settings: dict[str, Any],
    threshold: float | None,
) -> dict[str, Any]:
    by_score = settings["strategy"] != "random"
    rank = {index: position for position, index in enumerate(order, start=1)}
    total, eligible = Counter(pool.tasks), Counter(pool.tasks[index] for index in order)
    # Best first, so that the last row of each task is the one at its cut.
    last = {pool.tasks[index]: index for index in chosen}
    taken = Counter(pool.tasks[index] for index in chosen)
    tasks = {
        task: {
            "total": total[task],
            "eligible": eligible[task],
            "chosen": taken[task],
            "cut_score": pool.scores[last[task]] if by_score and task in last else None,
        }
        for task in sorted(total)
    }
    named = settings["task_column"] in scored.column_names
    scores = torch.tensor(list(pool.scores.values()), dtype=torch.float64)
    quantiles = scores.quantile(torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()
    rows = _rows(scored.with_format(None), chosen)
    terms = [
        list(rows[name]) if name in scored.column_names else [None] * len(chosen)
        for name in ("confidence_linear", "confidence_quadratic")
    ]
    return {
        "settings": settings,
        "total": len(scored),
        "eligible": len(order),
        "chosen": len(chosen),
        "not_eligible": pool.not_eligible,
        "tasks": tasks if named else {},
        "threshold": threshold,
        "cut_score": pool.scores[chosen[-1]] if by_score and chosen else None,
        "score_quantiles": {str(q): value for q, value in zip(_QUANTILES, quantiles, strict=True)},
        "rows": [
            {
                "index": index,
                "task": pool.tasks[index] if named else None,
                "score": pool.scores[index],
                "linear": linear,
                "quadratic": quadratic,
                "rank": rank[index],
                "reason": _reason(pool, index, rank[index], len(order), settings, threshold),
            }
            for index, linear, quadratic in zip(chosen, *terms, strict=True)
        ],
    }


def _reason(
    pool: _Pool, index: int, rank: int, eligible: int, settings: Mapping[str, Any], threshold: float | None
) -> str:
    if threshold is not None:
        return f"score at least {threshold:.4g}"
    if settings["strategy"] == "weighted":
        return f"rank {rank} of {eligible} by highest score, weighted by it"
    if settings["strategy"] == "gap":
        bounds = f"between {GAP_BOUNDS[0]:g} and {GAP_BOUNDS[1]:g} of the rows"
        return f"rank {rank} of {eligible} by highest score, above the largest gap {bounds}"
    if settings["strategy"] == "random":
        place = f"drawn {rank} of {eligible} at random (seed {settings['seed']})"
    else:
        place = f"rank {rank} of {eligible} by {settings['strategy']} score"
    name, value = next((n, settings[n]) for n in ("fraction", "count", "quotas") if settings[n] is not None)
    if name == "quotas":
        return f"{place}, within quota {value[pool.tasks[index]]} of {pool.tasks[index]}"
    return f"{place}, within {name} {value}"
