"""Tables of single result files: runs of the demo, and what evidence/speed measured."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from evidence.demo_arms import ARMS
from evidence.tables.table import table
from graceful_forgetting.results.arms import method_title
from graceful_forgetting.results.cost import MethodCost
from graceful_forgetting.results.result import ArmSummary, RunResult, TaskSummary
from graceful_forgetting.results.statistics import PairedInterval, paired_interval
from graceful_forgetting.results.text import estimate, fixed, points, share, spread
from graceful_forgetting.training.shipped import shipped_model

EVIDENCE = Path(__file__).parents[1]
ARCHIVES = EVIDENCE / "archives"
SPEED = EVIDENCE / "speed"
Column = Callable[[Any], str]
# Result file -> what differs from the formula, by which the demo ran then.
VARIANTS = {
    "demo_formula": "highest confidence (the demo then)",
    "demo_random": "random quarter of the pool",
    "demo_lowest": "lowest confidence",
    "demo_half_rate": "unlearning rate 3e-4",
    "demo_conflict_retain": "gradient conflict, and the rest retained",
}


def _record(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _run(name: str) -> RunResult:
    return RunResult.load(ARCHIVES / f"{name}.json")


def _learned(result: RunResult) -> TaskSummary:
    return next(task for task in result.summary.tasks.values() if task.role == "learning")


def _spread(arm: ArmSummary) -> str:
    return spread(arm.mean, arm.sd)


def _difference(found: PairedInterval | None) -> str:
    assert found is not None
    return estimate(found.difference, found.low, found.high)


def _fixed(key: str, decimals: int) -> Column:
    """A column of numbers of rows that are records."""
    return lambda row: fixed(row[key], decimals)


# Runs of the demo ----------------------------------------------------------------------------------------------------


def variants() -> str:
    """Accuracy on the learning task of every variant, with paired intervals over the seeds."""
    tasks = {label: _learned(_run(name)) for name, label in VARIANTS.items()}
    first, *_, last = tasks.values()

    def behind(label: str) -> str:
        rival = tasks[label].arms["lwf"]
        return "" if tasks[label] is first else _difference(paired_interval(first.arms["lwf"].values, rival.values))

    def of_gap(label: str) -> str:
        gap = tasks[label].gap
        return "" if gap is None or gap.fraction is None else share(gap.fraction)

    plain, never_knew = last.arms["plain"], last.arms["never_knew"]
    return table(
        tasks,
        {
            "unlearned": str,
            "LWF": lambda label: _spread(tasks[label].arms["lwf"]),
            "LWF − plain": lambda label: _difference(tasks[label].difference),
            "share of the gap": of_gap,
            "highest − this": behind,
        },
        f"Plain {_spread(plain)}, never knew {_spread(never_knew)}; accuracy in %, {plain.n} seeds, 95 % intervals of "
        "paired differences.",
    )


def effects(name: str) -> str:
    """What the unlearning of a run does to every task."""
    result = _run(name)
    tasks = result.summary.tasks

    def head(task: str) -> str:
        if tasks[task].role == "learning" or result.selection is None:
            return f"{task} (learned)"
        return f"{task} ({result.selection.tasks[task].kind or 'forgetting'})"

    def of_arm(arm: str, task: str) -> str:
        return _spread(tasks[task].arms[arm])

    title = method_title(result.config)
    arms = {"base model": "base", "plain": "plain", title: "lwf", "never knew": "never_knew"}
    columns: dict[str, Column] = {
        "task": head,
        **{title: partial(of_arm, arm) for title, arm in arms.items()},
        "difference to plain": lambda task: _difference(tasks[task].difference),
    }
    return table(tasks, columns)


def expectation() -> str:
    """The gain on the demo, in words: with the defaults, and by the formula of the paper."""
    lines = []
    for name, label in {
        "demo": "Forgetting by interference (the default)",
        "demo_published": "LWF as published",
    }.items():
        result = _run(name)
        tasks, task = result.summary.tasks, _learned(result)
        assert result.selection is not None
        helpful = next(tasks[other] for other, chosen in result.selection.tasks.items() if chosen.kind == "helpful")
        difference, gap, arms = task.difference, task.gap, task.arms
        assert difference is not None
        assert gap is not None
        gained = _difference(difference).removeprefix("+")
        value, _, bounds = gained.partition(" ")
        changed, _, change_bounds = _difference(helpful.difference).partition(" ")
        lines.append(
            f"- {label} is {value} points better than plain fine-tuning ({points(arms['plain'].mean)} to "
            f"{points(arms['lwf'].mean)} %, {difference.n} seeds, 95 % interval {bounds}), which is "
            f"{share(gap.fraction)} of the gap to a model that never knew. Knowledge that helps changes by "
            f"{changed} points {change_bounds}."
        )
    return "\n".join(lines)


def demo_gains() -> str:
    """What the two ways to forget gain in the demo, in one sentence."""
    of_plain, lwf, interference, _ = (arm.values for arm in ARMS)
    gained = [_difference(paired_interval(values, of_plain)).removeprefix("+") for values in (lwf, interference)]
    value, _, bounds = gained[0].partition(" ")
    return (
        f"The picture is of `graceful demo --num_seeds {len(of_plain)}`: over plain fine-tuning LWF gains {value} "
        f"points {bounds}, interference {gained[1]}."
    )


# Speed ---------------------------------------------------------------------------------------------------------------


def scorer_cost() -> str:
    """Time and memory of the scorer and its alternatives, as ratios to one plain forward and backward."""
    rows = _record(SPEED / "confidence-2-cores.json")["rows"]
    by_case: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for row in rows:
        by_case.setdefault((row["tokens"], row["prompt_tokens"], row["tied"]), {})[row["method"]] = row

    def head(case: tuple[int, int, bool]) -> str:
        tokens, prompt, tied = case
        return f"{tokens}, {prompt}{', tied' if tied else ''}"

    def cell(method: str, case: tuple[int, int, bool]) -> str:
        ratio, peak = (by_case[case][method].get(key) for key in ("ratio", "peak_ratio"))
        return "fails" if ratio is None or peak is None else f"{fixed(ratio, 2)} ({fixed(peak, 2)})"

    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != "forward + backward")
    return table(by_case, {"tokens, of them prompt": head, **{name: partial(cell, name) for name in methods}})


def scorer_subsets() -> str:
    """How scores over some of the parameters rank samples, against the score over all."""
    return table(
        _record(SPEED / "confidence-2-cores.json")["subsets"],
        {
            "scored parameters": lambda row: row["subset"],
            "share of all": lambda row: f"{row['parameters']:.0%}",
            "rank correlation with the full score": _fixed("rank_correlation", 3),
            "time": _fixed("seconds_ratio", 2),
        },
    )


def elicitation_speed() -> str:
    """Tokens per second of elicitation and of its alternatives."""
    ways = _record(SPEED / "elicitation-1-thread.json")["ways"]
    return table(
        ways,
        {
            "way": str,
            "tokens per second": lambda name: fixed(ways[name]["tokens_per_second"], 0),
            "against one by one": lambda name: fixed(ways[name]["times_one_by_one"], 1),
        },
    )


def overhead() -> str:
    """A learning step of LWFTrainer against SFTTrainer's, as paired ratios."""
    cases = _record(SPEED / "overhead-1-thread.json")["cases"]

    def ratio(key: str, name: str) -> str:
        found = cases[name][key]
        return f"{found['median']:.3f} [{found['lower_quartile']:.3f}, {found['upper_quartile']:.3f}]"

    return table(
        cases,
        {
            "model and data": str,
            "rounds": lambda name: str(cases[name]["rounds"]),
            "a step of SFTTrainer": lambda name: f"{1000 * cases[name]['seconds']['sft']:.0f} ms",
            "unlearning off": partial(ratio, "off"),
            "unlearning on": partial(ratio, "on"),
        },
    )


def method_cost() -> str:
    """The stages of the method as multiples of one plain fine-tuning run."""
    found = _record(SPEED / "method-cost-1-thread.json")["cases"]
    cases = {name: MethodCost(**case) for name, case in found.items()}
    rows: dict[str, Callable[[MethodCost], float | None]] = {
        stage.replace("_", "-"): partial(_preparation, stage)
        for stage in dict.fromkeys(stage for case in cases.values() for stage in case.preparation)
    }
    rows |= {
        "fine-tuning with unlearning": lambda case: case.unlearning / case.plain,
        "**together, reference run at hand**": lambda case: case.with_reference_at_hand,
        "**a seed, where all share the stages before**": lambda case: case.per_seed,
        "**with the reference run**": lambda case: case.with_reference,
    }

    def cell(case: MethodCost, row: str) -> str:
        return fixed(rows[row](case), 2)

    columns: dict[str, Column] = {
        "stage": str,
        **{name: partial(cell, case) for name, case in cases.items()},
    }
    return table(rows, columns)


def _preparation(stage: str, case: MethodCost) -> float | None:
    return case.preparation[stage] / case.plain if stage in case.preparation else None


def pairwise_projection() -> str:
    """The score by single learning examples, by the numbers that are kept of each gradient."""
    return table(
        _record(SPEED / "pairwise-projection.json")["rows"],
        {
            "numbers a gradient": lambda row: f"{row['width']:,}",
            "AUROC": _fixed("auroc", 3),
            "median of conflicting samples": lambda row: f"{row['median_conflicting']:.2f}",
            "of others": lambda row: f"{row['median_other']:.2f}",
            "CPU seconds": _fixed("seconds", 1),
        },
    )


# The base model in the package ---------------------------------------------------------------------------------------


def base_model_tasks() -> str:
    """What it knows of the tasks."""
    tasks = _record(ARCHIVES / "base_model_tasks.json")["tasks"]

    def accuracy(name: str) -> str:
        if "accuracy" not in tasks[name]:
            return ""
        mean = tasks[name]["accuracy"]
        return f"{mean:.3f} ± {1.96 * (mean * (1 - mean) / tasks[name]['rows']) ** 0.5:.3f}"

    def optional(key: str, name: str) -> str:
        return fixed(tasks[name][key]) if key in tasks[name] else ""

    return table(
        tasks,
        {
            "task": str,
            "rows": lambda name: str(tasks[name]["rows"]),
            "bits per byte of the answer": lambda name: fixed(tasks[name]["bits_per_byte"], 2),
            "accuracy, summed": accuracy,
            "per byte": partial(optional, "accuracy_per_byte"),
            "chance": partial(optional, "chance"),
            "most frequent answer": partial(optional, "most_frequent"),
        },
    )


def base_model_losses() -> str:
    """Bits per byte of it while it was trained."""
    return table(
        _record(shipped_model() / "model.json")["measurements"],
        {
            "step": lambda at: f"{at['step']:,}",
            "held-out text": _fixed("held_out", 2),
            "wikitext2_valid": _fixed("wikitext2_valid", 2),
        },
    )
