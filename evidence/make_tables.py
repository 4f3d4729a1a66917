"""Writes the tables of docs/ from the result files in evidence/archives/.

    python -m evidence.make_tables          rewrite what stands between the markers
    python -m evidence.make_tables --check  exit with 1 if that would change anything

A table stands in a Markdown file between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from evidence.scoring_study import summary as scoring
from evidence.scoring_study.rows import read_rows
from evidence.tables.over_pairs import gains_of_pairs, spreads_of_pairs
from evidence.tables.over_rates import gains_at_best_rates, gains_by_rate
from evidence.tables.over_settings import evidence_table, gains_by_setting
from evidence.tables.over_tasks import (
    bits_saved,
    choice_accuracy,
    methods_by_forgetting,
    neutral_bits_saved,
    task_matrix,
)
from evidence.tables.over_worlds import (
    Outcome,
    best_plain_runs,
    one_world,
    outcomes,
    outcomes_by_share,
    world_gains,
    world_shares,
)
from evidence.tables.readme import gains_in_worlds
from evidence.tables.sensitivity import sensitivity
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.sweeps.archive import read_archive
from graceful_forgetting.sweeps.comparison import Group, groups_of
from graceful_forgetting.tasks.catalogue import task_table
from graceful_forgetting.training.shipped import shipped_model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "evidence" / "archives"
SPEED = ROOT / "evidence" / "speed"
WORLDS = ("shortcut", "override", "arithmetic", "capacity", "entangled", "harmless")
RATE_WORLDS = ("shortcut", "override", "arithmetic", "capacity", "entangled")
METHOD_WORLDS = ("shortcut", "arithmetic", "capacity", "entangled")
PAGES = (
    "quickstart.md",
    "log.md",
    "methods.md",
    "base-model.md",
    "tasks.md",
    "index.md",
    "scoring-study.md",
    "cost.md",
    "when-it-helps.md",
)
FILES = (
    ROOT / "README.md",
    ROOT / "src" / "graceful_forgetting" / "training" / "checkpoint" / "README.md",
    *(DOCS / page for page in PAGES),
)
# The paper's ablations: which confidence is unlearned, and when; `lwf` unlearns the highest, periodically.
CHOICES = (("lwf", "random"), ("random", "lowest"), ("lwf", "lowest"))
SCHEDULES = (("schedule-random", "lwf"), ("schedule-early", "lwf"))
# Result file -> what differs from the formula, by which the demo ran then.
VARIANTS = {
    "demo_formula": "highest confidence (the demo then)",
    "demo_random": "random quarter of the pool",
    "demo_lowest": "lowest confidence",
    "demo_half_rate": "unlearning rate 3e-4",
    "demo_conflict_retain": "gradient conflict, and the rest retained",
}


def _percent(value: float, signed: bool = False) -> str:
    return f"{100 * value:{'+' if signed else ''}.1f}".replace("-", "−")


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{_percent(low)}, {_percent(high)}]"


def variants() -> str:
    """Accuracy on the learning task of every variant, with paired intervals over the seeds."""
    rows = ["| unlearned | LWF | LWF − plain | share of the gap | highest − this |", "|---|---|---|---|---|"]
    best: list[float] = []
    for name, label in VARIANTS.items():
        result = RunResult.load(RESULTS / f"{name}.json")
        task = next(task for task in result.summary.tasks.values() if task.role == "learning")
        arm, difference, gap = task.arms["lwf"], task.difference, task.gap
        assert difference is not None
        assert gap is not None
        best = best or arm.values
        rival = paired_interval(best, arm.values)
        behind = _percent(rival.difference, signed=True) + _interval(rival.low, rival.high)
        share = "" if gap.fraction is None else f"{100 * gap.fraction:.0f} %".replace("-", "−")
        rows.append(
            f"| {label} | {_percent(arm.mean)} ± {_percent(arm.sd or 0)} "
            f"| {_percent(difference.difference, signed=True)}{_interval(difference.low, difference.high)} | {share} "
            f"| {'' if arm.values is best else behind} |"
        )
    plain, never_knew = task.arms["plain"], task.arms["never_knew"]
    rows += [
        "",
        f"Plain {_percent(plain.mean)} ± {_percent(plain.sd or 0)}, never knew {_percent(never_knew.mean)} ± "
        f"{_percent(never_knew.sd or 0)}; accuracy in %, {arm.n} seeds, 95 % intervals of paired differences.",
    ]
    return "\n".join(rows)


def effects(name: str) -> str:
    """What the unlearning of a run does to every task."""
    result = RunResult.load(RESULTS / f"{name}.json")
    rows = ["| task | base model | plain | LWF | never knew | LWF − plain |", "|---|---|---|---|---|---|"]
    for task_name, task in result.summary.tasks.items():
        kind = "learned"
        if task.role == "forgetting" and result.selection is not None:
            kind = result.selection.tasks[task_name].kind or "forgetting"
        cells = [
            _percent(task.arms[arm].mean)
            + ("" if task.arms[arm].sd is None else f" ± {_percent(task.arms[arm].sd or 0)}")
            for arm in ("base", "plain", "lwf", "never_knew")
        ]
        assert task.difference is not None
        change = _percent(task.difference.difference, signed=True) + _interval(
            task.difference.low, task.difference.high
        )
        rows.append(f"| {task_name} ({kind}) | {' | '.join(cells)} | {change} |")
    return "\n".join(rows)


def scorer_cost() -> str:
    """Time and memory of the scorer and its alternatives, as ratios to one plain forward and backward."""
    rows = json.loads((SPEED / "confidence-2-cores.json").read_text(encoding="utf-8"))["rows"]
    methods = list(dict.fromkeys(row["method"] for row in rows if row["method"] != "forward + backward"))
    by_case: dict[tuple[int, int, bool], dict[str, dict[str, float | None]]] = {}
    for row in rows:
        case = (row["tokens"], row["prompt_tokens"], row["tied"])
        by_case.setdefault(case, {})[row["method"]] = row
    lines = [f"| tokens, of them prompt | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for (tokens, prompt, tied), measured in by_case.items():
        cells = []
        for method in methods:
            ratio, peak = measured[method].get("ratio"), measured[method].get("peak_ratio")
            cells.append("fails" if ratio is None or peak is None else f"{ratio:.2f} ({peak:.2f})")
        lines.append(f"| {tokens}, {prompt}{', tied' if tied else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def scorer_subsets() -> str:
    """How scores over some of the parameters rank samples, against the score over all."""
    rows = json.loads((SPEED / "confidence-2-cores.json").read_text(encoding="utf-8"))["subsets"]
    lines = ["| scored parameters | share of all | rank correlation with the full score | time |", "|---|---|---|---|"]
    for row in rows:
        numbers = f"{row['parameters']:.0%} | {row['rank_correlation']:.3f} | {row['seconds_ratio']:.2f}"
        lines.append(f"| {row['subset']} | {numbers} |")
    return "\n".join(lines)


def elicitation_speed() -> str:
    """Tokens per second of elicitation and of its alternatives."""
    path = SPEED / "elicitation-1-thread.json"
    lines = ["| way | tokens per second | against one by one |", "|---|---|---|"]
    for name, way in json.loads(path.read_text(encoding="utf-8"))["ways"].items():
        lines.append(f"| {name} | {way['tokens_per_second']:.0f} | {way['times_one_by_one']:.1f} |")
    return "\n".join(lines)


def overhead() -> str:
    """A learning step of LWFTrainer against SFTTrainer's, as paired ratios."""
    path = SPEED / "overhead-1-thread.json"
    lines = ["| model and data | rounds | a step of SFTTrainer | unlearning off | unlearning on |", "|---" * 5 + "|"]
    for name, case in json.loads(path.read_text(encoding="utf-8"))["cases"].items():
        cells = [
            f"{case[key]['median']:.3f} [{case[key]['lower_quartile']:.3f}, {case[key]['upper_quartile']:.3f}]"
            for key in ("off", "on")
        ]
        lines.append(f"| {name} | {case['rounds']} | {1000 * case['seconds']['sft']:.0f} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


def method_cost() -> str:
    """The stages of the method as multiples of one plain fine-tuning run."""
    path = SPEED / "method-cost-1-thread.json"
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    lines = [f"| stage | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]
    for stage in dict.fromkeys(stage for case in cases.values() for stage in case["preparation"]):
        known = [case["preparation"].get(stage) for case in cases.values()]
        shown = [
            "–" if seconds is None else f"{seconds / case['plain']:.2f}"
            for seconds, case in zip(known, cases.values(), strict=True)
        ]
        lines.append(f"| {stage.replace('_', '-')} | {' | '.join(shown)} |")
    rows = {
        "fine-tuning with unlearning": [case["unlearning"] / case["plain"] for case in cases.values()],
        "**together, reference run at hand**": [case["with_reference_at_hand"] for case in cases.values()],
        "**a seed, where all share the stages before**": [case["per_seed"] for case in cases.values()],
        "**with the reference run**": [case["with_reference_at_hand"] + 1 for case in cases.values()],
    }
    lines += [f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} |" for name, shares in rows.items()]
    return "\n".join(lines)


def expectation() -> str:
    """The gain on the demo, in words: with the defaults, and by the formula of the paper."""
    lines = []
    for name, label in {"demo": "LWF with the defaults", "demo_published": "By the formula of the paper it"}.items():
        result = RunResult.load(RESULTS / f"{name}.json")
        tasks = result.summary.tasks
        task = next(task for task in tasks.values() if task.role == "learning")
        assert result.selection is not None
        helpful = next(
            tasks[other].difference for other, chosen in result.selection.tasks.items() if chosen.kind == "helpful"
        )
        difference, gap, arms = task.difference, task.gap, task.arms
        assert difference is not None
        assert helpful is not None
        assert gap is not None
        assert gap.fraction is not None
        lines.append(
            f"- {label} is {_percent(difference.difference)} points better than plain fine-tuning "
            f"({_percent(arms['plain'].mean)} to {_percent(arms['lwf'].mean)} %, {difference.n} seeds, 95 % interval"
            f"{_interval(difference.low, difference.high)}), which is {100 * gap.fraction:.0f} % of the gap to a model "
            f"that never knew. Knowledge that helps changes by {_percent(helpful.difference, signed=True)} points"
            f"{_interval(helpful.low, helpful.high)}."
        )
    return "\n".join(lines)


def pairwise_projection() -> str:
    """The score by single learning examples, by the numbers that are kept of each gradient."""
    path = SPEED / "pairwise-projection.json"
    lines = [
        "| numbers a gradient | AUROC | median of conflicting samples | of others | CPU seconds |",
        "|---" * 5 + "|",
    ]
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        medians = " | ".join(f"{row[name]:.2f}" for name in ("median_conflicting", "median_other"))
        lines.append(f"| {row['width']:,} | {row['auroc']:.3f} | {medians} | {row['seconds']:.1f} |")
    return "\n".join(lines)


def base_model_tasks() -> str:
    """What the base model in the package knows of the tasks."""
    found = json.loads((RESULTS / "base_model_tasks.json").read_text(encoding="utf-8"))["tasks"]
    lines = [
        "| task | rows | bits per byte of the answer | accuracy, summed | per byte | chance | most frequent answer |",
        "|---" * 7 + "|",
    ]
    for name, task in found.items():
        choice = ["", "", "", ""]
        if "accuracy" in task:
            margin = 1.96 * (task["accuracy"] * (1 - task["accuracy"]) / task["rows"]) ** 0.5
            rest = (task[key] for key in ("accuracy_per_byte", "chance", "most_frequent"))
            choice = [f"{task['accuracy']:.3f} ± {margin:.3f}", *(f"{value:.3f}" for value in rest)]
        lines.append(f"| {name} | {task['rows']} | {task['bits_per_byte']:.2f} | {' | '.join(choice)} |")
    return "\n".join(lines)


def base_model_losses() -> str:
    """Bits per byte of the base model in the package while it was trained."""
    found = json.loads((shipped_model() / "model.json").read_text(encoding="utf-8"))["measurements"]
    lines = ["| step | held-out text | wikitext2_valid |", "|---|---|---|"]
    lines += [f"| {at['step']:,} | {at['held_out']:.2f} | {at['wikitext2_valid']:.2f} |" for at in found]
    return "\n".join(lines)


@cache
def _study() -> scoring.Study:
    return scoring.Study(read_rows(RESULTS / "scoring" / "study.jsonl"))


def _of_the_study(name: str) -> str:
    return scoring.TABLES[name](_study())


@cache
def worlds(folder: str = ".", names: tuple[str, ...] = WORLDS) -> dict[str, list[Group]]:
    """The archived sweep of every world in a folder of the results, in the order of the tables' columns."""
    return {name: groups_of(read_archive(RESULTS / folder / f"{name}.jsonl")) for name in names}


def all_builds() -> dict[str, list[Group]]:
    """The default settings on all builds that have been run."""
    kept = ("plain", "never_knew", "early_retain_guarded")
    return {
        world: [
            replace(group, methods={name: group.methods[name] for name in kept})
            for group in (*groups, *worlds("confirmation")[world])
        ]
        for world, groups in worlds().items()
    }


def early_outcomes() -> list[Outcome]:
    """Of the default settings, on all builds: what `graceful advise` rests on after an early reference run."""
    method = "early_retain_guarded"
    return [one for folder in (".", "confirmation") for one in outcomes(worlds(folder), method)]


def methods(world: str) -> str:
    """Every method in one world, and the setting that was chosen for it."""
    record = json.loads((RESULTS / "methods" / f"{world}.tuning.json").read_text(encoding="utf-8"))["choices"]["all"]
    chosen = {
        method: ", ".join(f"`{field}` {value:g}" for field, value in tuned["chosen"].items())
        for method, tuned in record.items()
    }
    return one_world(groups_of(read_archive(RESULTS / "methods" / f"{world}.jsonl")), chosen)


def difficulty() -> list[Group]:
    """The world `shortcut`, made easier and harder."""
    return worlds("difficulty", ("shortcut",))["shortcut"]


def override_first() -> list[Group]:
    """Forgetting before learning, in the world `override`."""
    return worlds("confirmation", ("override-first",))["override-first"]


def text_cells() -> list[Group]:
    """Real text: what is learned against what may be forgotten."""
    return groups_of(read_archive(RESULTS / "text" / "matrix.jsonl"))


TABLES = {
    "elicitation_speed": elicitation_speed,
    "expectation": expectation,
    "method_cost": method_cost,
    "overhead": overhead,
    "pairwise_projection": pairwise_projection,
    "scorer_subsets": scorer_subsets,
    "variants": variants,
    "effects": partial(effects, "demo"),
    "effects_formula": partial(effects, "demo_formula"),
    "scorer_cost": scorer_cost,
    "tasks": task_table,
    "gains_in_worlds": lambda: gains_in_worlds(worlds()),
    "world_gains": lambda: world_gains(worlds()),
    "world_shares": lambda: world_shares(
        worlds(), ("lwf", "early_retain", "early_retain_guarded"), "early_retain_guarded"
    ),
    "confirmation_gains": lambda: world_gains(worlds("confirmation")),
    "confirmation_shares": lambda: world_shares(
        worlds("confirmation"), ("early_retain_guarded", "by_trial"), "early_retain_guarded"
    ),
    "all_builds_gains": lambda: world_gains(all_builds()),
    "all_builds_shares": lambda: world_shares(all_builds(), ("early_retain_guarded",), "early_retain_guarded"),
    "base_model_losses": base_model_losses,
    "base_model_tasks": base_model_tasks,
    "best_plain_runs": lambda: best_plain_runs(worlds("confirmation")),
    "early_outcomes": lambda: outcomes_by_share(early_outcomes()),
    "methods_over_worlds": lambda: world_gains(worlds("methods", METHOD_WORLDS)),
    **{f"methods_{world}": partial(methods, world) for world in METHOD_WORLDS},
    "methods_order": lambda: gains_of_pairs(worlds("methods", METHOD_WORLDS), (*CHOICES, *SCHEDULES)),
    "methods_spread": lambda: spreads_of_pairs(worlds("methods", METHOD_WORLDS), SCHEDULES),
    "difficulty": lambda: gains_by_setting(difficulty(), ("default",), "default"),
    "rates": lambda: gains_by_rate(worlds("rates", RATE_WORLDS), ("default", "lwf")),
    "best_rates": lambda: gains_at_best_rates(worlds("rates", RATE_WORLDS), ("default", "lwf")),
    "evidence_required": lambda: evidence_table(difficulty()),
    "text_bits": lambda: task_matrix(text_cells(), "default", bits_saved, 3),
    "text_translation": lambda: task_matrix(
        groups_of(read_archive(RESULTS / "text" / "translation.jsonl")), "default", bits_saved, 3
    ),
    "text_neutral": lambda: task_matrix(text_cells(), "default", neutral_bits_saved, 3),
    "text_retaining": lambda: methods_by_forgetting(
        groups_of(read_archive(RESULTS / "text" / "retaining.jsonl")), neutral_bits_saved, 2
    ),
    "text_retaining_bits": lambda: methods_by_forgetting(
        groups_of(read_archive(RESULTS / "text" / "retaining.jsonl")), bits_saved, 3
    ),
    "text_choice": lambda: task_matrix(text_cells(), "default", choice_accuracy, 3),
    "ways": lambda: world_gains(
        worlds("ways", ("shortcut", "override", "override-stable", "arithmetic", "capacity", "entangled"))
    ),
    "sensitivity_shortcut": lambda: sensitivity(worlds("sensitivity", ("shortcut",))["shortcut"], "default"),
    "sensitivity_arithmetic": lambda: sensitivity(worlds("sensitivity", ("arithmetic",))["arithmetic"], "default"),
    "pairwise": lambda: world_gains(worlds("pairwise")),
    "pairwise_first": lambda: one_world(worlds("pairwise", ("override-first",))["override-first"]),
    "override_pairwise": lambda: one_world(worlds("confirmation", ("override-pairwise",))["override-pairwise"]),
    "trials": lambda: world_gains(worlds("trials")),
    "override_first": lambda: one_world(override_first()),
    "best_plain_run_first": lambda: best_plain_runs({"override": override_first()}),
    **{name: partial(_of_the_study, name) for name in scoring.TABLES},
}


def filled(text: str) -> str:
    """`text` with every table between markers made anew."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> int:
    stale = []
    for path in FILES:
        old = path.read_text(encoding="utf-8")
        new = filled(old)
        if new != old:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'out of date' if '--check' in sys.argv else 'rewritten'}: {', '.join(stale)}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
