"""Every table of docs/ by its name: which archives it is made from, and how.

`default_gains` compares the paper's method with well-chosen open settings against the other scores, over six worlds:
its archives are those of the grids in evidence/grids/default/. A world that is not archived yet has no column, and a
method that a world lacks has a dash.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from evidence.scoring_study import summary as scoring
from evidence.scoring_study.rows import read_rows
from evidence.tables import records
from evidence.tables.rates import gains_at_best_rates, gains_by_rate
from evidence.tables.records import ARCHIVES
from evidence.tables.sweeps import (
    Outcome,
    best_plain_runs,
    evidence_table,
    gains_by_setting,
    methods_by_forgetting,
    one_world,
    outcomes,
    outcomes_by_share,
    pair_table,
    readme_gains,
    sensitivity,
    task_matrix,
    world_gains,
    world_shares,
)
from evidence.tables.uses import (
    asked_again,
    found_in_pool,
    learned_tasks,
    one_use,
    rows_for_as_much,
    scores_of_uses,
    use_and_harm,
)
from evidence.tables.values import (
    Runs,
    Worlds,
    bits_saved,
    choice_accuracy,
    gain,
    neutral_bits_saved,
    spread_ratio,
)
from evidence.threshold_study import thresholds
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.sweeps.archive import read_archive
from graceful_forgetting.sweeps.comparison import groups_of
from graceful_forgetting.tasks.catalogue import task_table

WORLDS = ("shortcut", "override", "arithmetic", "capacity", "entangled", "harmless")
METHOD_WORLDS = ("shortcut", "arithmetic", "capacity", "entangled")
RATE_WORLDS = ("shortcut", "override", "arithmetic", "capacity", "entangled")
WAY_WORLDS = ("shortcut", "override", "override-stable", "arithmetic", "capacity", "entangled")
# The paper's ablations: which confidence is unlearned, and when; `lwf` unlearns the highest, periodically.
CHOICES = (("lwf", "random"), ("random", "lowest"), ("lwf", "lowest"))
SCHEDULES = (("schedule-random", "lwf"), ("schedule-early", "lwf"))
# Ways to unlearn less than `whole`, and a score by single tokens.
SMALLER = ("half", "quarter", "every_4", "token")
GUARDED = "early_retain_guarded"
# World -> what its base model knows that may be in the way of the learning task.
IN_THE_WAY = {
    "shortcut": "an old rule for the same question",
    "override": "old facts that are replaced",
    "arithmetic": "an old meaning of an operator",
    "capacity": "junk that takes up room",
    "entangled": "old facts beside helpful ones",
    "harmless": "nothing",
}


@cache
def runs(name: str) -> Runs:
    """Of one archived sweep, in the order of its grid."""
    return groups_of(read_archive(ARCHIVES / f"{name}.jsonl"))


def worlds(folder: str = ".", names: tuple[str, ...] = WORLDS) -> Worlds:
    """The archived sweep of every world in a folder of the archives, in the order of the tables' columns."""
    return {name: runs(f"{folder}/{name}") for name in names}


def archived(folder: str) -> Worlds:
    """As `worlds`, of those whose sweep has been archived."""
    return worlds(folder, tuple(name for name in WORLDS if (ARCHIVES / folder / f"{name}.jsonl").is_file()))


def all_builds() -> Worlds:
    """The early guarded method on all builds that have been run."""
    kept = ("plain", "never_knew", GUARDED)
    return {
        world: [
            replace(group, methods={name: group.methods[name] for name in kept})
            for group in (*groups, *runs(f"confirmation/{world}"))
        ]
        for world, groups in worlds().items()
    }


def early_outcomes() -> list[Outcome]:
    """Of the early guarded method on all builds: what `graceful advise` rests on after an early reference run."""
    return [one for folder in (".", "confirmation") for one in outcomes(worlds(folder), GUARDED)]


def tuned(world: str) -> str:
    """Every method in one world, and the setting that was chosen for it."""
    choices = read_json(ARCHIVES / "methods" / f"{world}.tuning.json")["choices"]["all"]
    chosen = {
        method: ", ".join(f"`{field}` {value:g}" for field, value in found["chosen"].items())
        for method, found in choices.items()
    }
    return one_world(runs(f"methods/{world}"), chosen)


def used(name: str) -> str:
    """Every method in one use of a real model, at the learning rate that was chosen for it."""
    return one_use(runs(f"uses/{name}"))


@cache
def _study() -> scoring.Study:
    return scoring.Study(read_rows(ARCHIVES / "scoring" / "study.jsonl"))


def _of_the_study(make: Callable[[scoring.Study], str]) -> str:
    return make(_study())


TABLES: dict[str, Callable[[], str]] = {
    "tasks": task_table,
    # Single records.
    "variants": records.variants,
    "effects": partial(records.effects, "demo"),
    "effects_formula": partial(records.effects, "demo_formula"),
    "expectation": records.expectation,
    "demo_gains": records.demo_gains,
    "scorer_cost": records.scorer_cost,
    "scorer_subsets": records.scorer_subsets,
    "elicitation_speed": records.elicitation_speed,
    "overhead": records.overhead,
    "method_cost": records.method_cost,
    "pairwise_projection": records.pairwise_projection,
    "base_model_losses": records.base_model_losses,
    "base_model_tasks": records.base_model_tasks,
    # Worlds.
    "default_gains": lambda: world_gains(archived("default"), [("lwf", "interference")]),
    "cost_gains": lambda: world_gains(archived("cost"), [(name, "whole") for name in SMALLER]),
    "thresholds": thresholds,
    "gains_in_worlds": lambda: readme_gains(
        worlds(), IN_THE_WAY, {"LWF": "lwf", "package defaults": GUARDED, "never knew": "never_knew"}
    ),
    "world_gains": lambda: world_gains(worlds()),
    "world_shares": lambda: world_shares(worlds(), ("lwf", "early_retain", GUARDED), GUARDED),
    "confirmation_gains": lambda: world_gains(worlds("confirmation")),
    "confirmation_shares": lambda: world_shares(worlds("confirmation"), (GUARDED, "by_trial"), GUARDED),
    "all_builds_gains": lambda: world_gains(all_builds()),
    "all_builds_shares": lambda: world_shares(all_builds(), (GUARDED,), GUARDED),
    "best_plain_runs": lambda: best_plain_runs(worlds("confirmation")),
    "best_plain_run_first": lambda: best_plain_runs({"override": runs("confirmation/override-first")}),
    "early_outcomes": lambda: outcomes_by_share(early_outcomes()),
    "override_first": lambda: one_world(runs("confirmation/override-first")),
    "override_pairwise": lambda: one_world(runs("confirmation/override-pairwise")),
    "pairwise": lambda: world_gains(worlds("pairwise")),
    "pairwise_first": lambda: one_world(runs("pairwise/override-first")),
    "trials": lambda: world_gains(worlds("trials")),
    "ways": lambda: world_gains(worlds("ways", WAY_WORLDS)),
    "methods_over_worlds": lambda: world_gains(worlds("methods", METHOD_WORLDS)),
    "methods_order": lambda: pair_table(worlds("methods", METHOD_WORLDS), (*CHOICES, *SCHEDULES), "over", gain),
    "methods_spread": lambda: pair_table(worlds("methods", METHOD_WORLDS), SCHEDULES, "of the spread of", spread_ratio),
    **{f"methods_{world}": partial(tuned, world) for world in METHOD_WORLDS},
    # Settings of a world, and learning rates.
    "difficulty": lambda: gains_by_setting(runs("difficulty/shortcut"), ("default",), "default"),
    "evidence_required": lambda: evidence_table(runs("difficulty/shortcut")),
    "sensitivity_shortcut": lambda: sensitivity(runs("sensitivity/shortcut"), "default"),
    "sensitivity_arithmetic": lambda: sensitivity(runs("sensitivity/arithmetic"), "default"),
    "rates": lambda: gains_by_rate(worlds("rates", RATE_WORLDS), ("default", "lwf")),
    "best_rates": lambda: gains_at_best_rates(worlds("rates", RATE_WORLDS), ("default", "lwf")),
    # Real text: what is learned against what may be forgotten.
    "text_bits": lambda: task_matrix(runs("text/matrix"), "default", bits_saved, 3),
    "text_neutral": lambda: task_matrix(runs("text/matrix"), "default", neutral_bits_saved, 3),
    "text_choice": lambda: task_matrix(runs("text/matrix"), "default", choice_accuracy, 3),
    "text_translation": lambda: task_matrix(runs("text/translation"), "default", bits_saved, 3),
    "text_retaining": lambda: methods_by_forgetting(runs("text/retaining"), neutral_bits_saved, 2),
    "text_retaining_bits": lambda: methods_by_forgetting(runs("text/retaining"), bits_saved, 3),
    # A real pre-trained model.
    "uses_labels_share": lambda: used("labels-share"),
    "uses_labels_rows": lambda: rows_for_as_much(runs("uses/labels-share"), "unlikelihood", runs("uses/labels-rows")),
    "uses_labels": lambda: used("labels"),
    "uses_identity": lambda: use_and_harm(runs("uses/identity"), "unrelated", 0.05),
    "uses_identity_trials": lambda: use_and_harm(runs("uses/identity-trials"), "unrelated"),
    "uses_identity_found": lambda: found_in_pool(runs("uses/identity"), "forgetting", "interference"),
    "uses_identity_nameless": lambda: asked_again(
        runs("uses/identity-nameless"), "forgetting", "unrelated", ("nameless", "nameless-unrelated")
    ),
    "uses_scores": lambda: scores_of_uses(ARCHIVES / "uses" / "scores.jsonl"),
    "uses_labels_neutral": lambda: used("labels-neutral"),
    "uses_paper_tasks": lambda: learned_tasks(runs("uses/paper-tasks"), "default"),
    "uses_labels_bets": lambda: one_use(runs("uses/labels-bets")[:1]),
    "uses_labels_bets_16": lambda: one_use(runs("uses/labels-bets")[1:]),
    **{name: partial(_of_the_study, make) for name, make in scoring.TABLES.items()},
}
