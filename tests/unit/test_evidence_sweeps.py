"""Tables over archived sweeps."""

from dataclasses import replace
from statistics import fmean, variance

import numpy as np
import pytest

from evidence.tables.sweeps import (
    best_plain_runs,
    evidence_table,
    gains_by_setting,
    methods_by_forgetting,
    one_world,
    outcomes,
    outcomes_by_share,
    pair_table,
    sensitivity,
    task_matrix,
    world_gains,
    world_shares,
)
from evidence.tables.values import bits_saved, choice_accuracy, gain, neutral_bits_saved, spread_ratio
from graceful_forgetting.results.result import ChoiceMetrics, GuardResult
from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.sweeps.comparison import EVIDENCE_SHARE, groups_of
from sweep_data import ITEMS, cell
from sweep_data import METHODS as ALL_METHODS

METHODS = ("plain", "never_knew", "lwf")
FELL_BACK = GuardResult(False, None, None, fell_back=True, held_out_loss=2.0, plain_held_out_loss=1.0)


def two_builds(world: str):
    """Two builds with two and one seed; the first run of the method fell back."""
    cells = [cell(method, seed, world) for method in METHODS for seed in (0, 1)]
    cells += [replace(cell(method, 5, world), setting="other") for method in METHODS]
    first = next(index for index, one in enumerate(cells) if one.method == "lwf")
    cells[first] = replace(cells[first], selection=replace(cells[first].selection, guard=FELL_BACK))
    return cells


def row(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith((f"| `{name}` |", f"| {name} |"))]
    return [part.strip() for part in line.strip("|").split("|")]


def test_gains_pair_seeds_within_builds_and_pool_over_them():
    cells = two_builds("sums")
    table = world_gains({"sums": groups_of(cells), "more": groups_of(two_builds("more"))})
    by_run = {(one.method, one.setting, one.seed): one.score for one in cells}
    runs = [("default", 0), ("default", 1), ("other", 5)]
    gain = fmean(by_run["lwf", *run] - by_run["plain", *run] for run in runs)
    assert row(table, "lwf")[1].startswith(f"{100 * gain:+.1f} [".replace("-", "−"))
    # Ranks are of what can be trained on the base model: not of the model that never knew.
    assert row(table, "never_knew")[-1] == ""
    assert float(row(table, "lwf")[-1]) in (1.0, 1.5, 2.0)
    assert "sums 3, more 3" in table


def test_shares_of_the_gap_and_runs_that_fell_back():
    cells = two_builds("sums")
    table = world_shares({"sums": groups_of(cells)}, ("lwf",), "lwf")
    means = {method: fmean(one.score for one in cells if one.method == method) for method in METHODS}
    gap = means["never_knew"] - means["plain"]
    found = row(table, "sums")
    assert found[1] == f"{100 * gap:+.1f}".replace("-", "−")
    assert found[2].startswith(f"{100 * (means['lwf'] - means['plain']) / gap:.0f} %".replace("-", "−"))
    assert found[3] == "1 of 3"


def test_the_best_plain_run_is_that_of_the_lowest_held_out_loss():
    cells = two_builds("sums")
    losses = {("default", 0): 0.5, ("default", 1): 0.2, ("other", 5): 0.9}
    for index, one in enumerate(cells):
        if one.method == "lwf":
            loss = losses[one.setting, one.seed]
            guard = GuardResult(False, None, None, held_out_loss=1.0, plain_held_out_loss=loss)
            cells[index] = replace(one, selection=replace(one.selection, guard=guard))
    plain = {(one.setting, one.seed): one.score for one in cells if one.method == "plain"}
    table = best_plain_runs({"sums": groups_of(cells)})
    mean = fmean([fmean([plain["default", 0], plain["default", 1]]), plain["other", 5]])
    best = fmean([plain["default", 1], plain["other", 5]])
    assert f"| best of a build's plain runs, less plain | {100 * (best - mean):+.1f} |".replace("-", "−") in table
    assert "sums 1" in table


def test_one_world_has_gain_share_and_worst_run_of_every_method():
    cells = two_builds("sums")
    table = one_world(groups_of(cells))
    scores = {method: [one.score for one in cells if one.method == method] for method in METHODS}
    means = {method: fmean(found) for method, found in scores.items()}
    plain, ours = row(table, "plain"), row(table, "lwf")
    assert plain[1:] == [f"{100 * means['plain']:.1f}", f"{100 * min(scores['plain']):.1f}", "", ""]
    assert ours[3].startswith(f"{100 * (means['lwf'] - means['plain']):+.1f} [".replace("-", "−"))
    share = (means["lwf"] - means["plain"]) / (means["never_knew"] - means["plain"])
    assert ours[4].startswith(f"{100 * share:.0f} % [".replace("-", "−"))
    assert row(table, "never_knew")[4] == ""
    assert "3 runs a method, on 2 builds" in table
    tuned = one_world(groups_of(cells), {"lwf": "`unlearn_every` 5"})
    assert [row(tuned, method)[4] for method in METHODS] == ["", "", "`unlearn_every` 5"]


def test_outcomes_are_counted_by_the_share_that_was_chosen():
    cells = two_builds("sums")
    shares = iter([0, 1, 3])
    for index, one in enumerate(cells):
        if one.method == "lwf":
            cells[index] = replace(one, selection=replace(one.selection, scored=10, chosen=next(shares)))
    found = outcomes({"sums": groups_of(cells)}, "lwf")
    by_run = {(one.method, one.setting, one.seed): one.score for one in cells}
    runs = [("default", 0), ("default", 1), ("other", 5)]
    assert [one.share for one in found] == [0.0, 0.1, 0.3]
    assert [one.kept for one in found] == [False, True, True]
    assert [one.gain for one in found] == [by_run["lwf", *run] - by_run["plain", *run] for run in runs]
    table = outcomes_by_share(found)
    gains = [f"{100 * one.gain:+.1f}".replace("-", "−") for one in found]
    for name, kept, points in zip(("none", "0 to 20 %", "20 to 40 %"), (0, 100, 100), gains, strict=True):
        assert f"| {name} | 1 | {kept} % | {points} |" in table
    assert "2 runs" in table


def test_a_world_or_a_method_that_is_not_archived_leaves_a_gap():
    without = [one for one in two_builds("more") if one.method != "lwf"]
    worlds = {"sums": groups_of(two_builds("sums")), "more": groups_of(without)}
    table = world_gains(worlds, [("lwf", "never_knew")])
    assert row(table, "lwf")[2:] == ["–", ""]
    assert world_gains({}) == "Nothing is archived."


def test_a_pair_has_a_row_of_its_own():
    cells = two_builds("sums")
    scores = {name: [one.score for one in cells if one.method == name] for name in METHODS}
    expected = paired_interval(scores["lwf"], scores["never_knew"])
    found = row(world_gains({"sums": groups_of(cells)}, [("lwf", "never_knew")]), "`lwf` − `never_knew`")
    assert found[1].startswith(f"{100 * expected.difference:+.1f} [".replace("-", "−"))
    assert found[2] == ""


# Pairs of methods -----------------------------------------------------------------------------------------------------


# Right answers by build and seed; the builds differ by more than the seeds.
RIGHT = {"lwf": [[12, 10, 11], [4, 2, 3]], "random": [[9, 13, 11], [1, 2, 6]], "still": [[5, 5, 5], [7, 7, 7]]}


def one_world_of(right=RIGHT):
    """One world of as many builds as `right` has, with exactly these answers."""
    cells = []
    for method, builds in right.items():
        for build, seeds in enumerate(builds):
            for seed, number in enumerate(seeds):
                one = cell(method, seed)
                metrics = replace(one.metrics["sums"], accuracy=number / ITEMS)
                cells.append(replace(one, setting=f"build-{build}", metrics={"sums": metrics}))
    return {"sums": groups_of(cells)}


def test_a_pair_is_compared_seed_by_seed_over_builds():
    found = row(pair_table(one_world_of(), [("lwf", "random"), ("random", "still")], "over", gain), "lwf")
    ours, theirs = ([n / ITEMS for build in RIGHT[name] for n in build] for name in ("lwf", "random"))
    expected = paired_interval(ours, theirs)
    assert found[1] == "`random`"
    assert found[2].startswith(f"{100 * expected.difference:+.1f} [{100 * expected.low:.1f}, ".replace("-", "−"))


def test_a_spread_is_that_within_builds():
    found = row(pair_table(one_world_of(), [("random", "lwf")], "of the spread of", spread_ratio), "random")
    ratio = fmean(map(variance, RIGHT["random"])) / fmean(map(variance, RIGHT["lwf"]))
    assert found[2].startswith(f"{ratio**0.5:.1f} [")


def test_the_interval_of_a_spread_has_the_truth_in_it_as_often_as_it_says():
    draw = np.random.default_rng(0)
    many = {
        f"world-{number}": one_world_of({"lwf": [draw.normal(20, 1, 5)], "random": [draw.normal(20, 2, 5)]})["sums"]
        for number in range(600)
    }
    found = row(pair_table(many, [("random", "lwf")], "of the spread of", spread_ratio), "random")[2:]
    bounds = [part.split("[")[1].strip("]").split(", ") for part in found]
    assert fmean(float(low) <= 2 <= float(high) for low, high in bounds) == pytest.approx(0.95, abs=0.03)


def test_what_does_not_vary_has_no_ratio():
    table = pair_table(one_world_of(), [("still", "lwf"), ("random", "still")], "of the spread of", spread_ratio)
    assert row(table, "still")[2] == row(table, "random")[2] == "–"


# Settings of a world --------------------------------------------------------------------------------------------------


SEEDS = range(6)


def many_and_few():
    """Every method with many and with few learning rows; with few it is worse."""
    many = [cell(method, seed) for method in ALL_METHODS for seed in SEEDS]
    return many + [cell(method, seed, rows=25, shift=-0.4) for method in ALL_METHODS for seed in SEEDS]


def mean_of(method: str, setting: str) -> float:
    return 100 * fmean(one.score for one in many_and_few() if (one.method, one.setting) == (method, setting))


def test_every_setting_has_its_gains_and_the_share_of_its_gap():
    table = gains_by_setting(groups_of(many_and_few()), ("lwf", "random"), "lwf")
    for setting in ("default", "n25"):
        found = row(table, setting)
        plain = mean_of("plain", setting)
        assert found[1] == f"{plain:.1f}"
        for column, method in enumerate(("never_knew", "lwf", "random"), start=2):
            gain = mean_of(method, setting) - plain
            assert found[column].startswith(f"{gain:+.1f} [".replace("-", "−"))
        share = (mean_of("lwf", setting) - plain) / (mean_of("never_knew", setting) - plain)
        assert found[5].startswith(f"{100 * share:.0f} %".replace("-", "−"))
    assert table.endswith("6 seeds a setting.")


def test_evidence_is_the_fewest_examples_that_reach_the_target():
    table = evidence_table(groups_of(many_and_few()))
    target = EVIDENCE_SHARE * mean_of("never_knew", "default")
    assert f"needed for {target:.1f}" in table
    assert row(table, "never_knew")[1:] == [
        f"{mean_of('never_knew', 'n25'):.1f}", f"{mean_of('never_knew', 'default'):.1f}", "100",
    ]  # fmt: skip
    assert row(table, "plain")[-1] == "–"


NAMES = ("plain", "default", "rate-x0.5", "rate-x2", "cap-x4")


def test_each_field_has_its_gains_by_factor():
    cells = [cell(name, seed, "sums") for name in NAMES for seed in (0, 1, 2)]
    table = [
        [part.strip() for part in line.strip("|").split("|")]
        for line in sensitivity(groups_of(cells), "default").splitlines()
    ]
    assert table[0] == ["setting", "× 0.5", "default", "× 2", "× 4"]
    by_run = {(one.method, one.seed): one.score for one in cells}

    def gain(method: str) -> str:
        found = fmean(by_run[method, seed] - by_run["plain", seed] for seed in (0, 1, 2))
        return f"{100 * found:+.1f} [".replace("-", "−")

    rate, cap = table[2:]
    assert [rate[0], cap[0]] == ["`rate`", "`cap`"]
    for shown, method in zip(rate[1:4], ("rate-x0.5", "default", "rate-x2"), strict=True):
        assert shown.startswith(gain(method))
    assert (cap[1], cap[3], rate[4]) == ("", "", "")
    assert cap[2].startswith(gain("default"))
    assert cap[4].startswith(gain("cap-x4"))


# Tasks of real text ---------------------------------------------------------------------------------------------------


def matrix():
    """Two tasks, each learned while the other may be forgotten; bits by task, method and seed."""
    cells = []
    for learned, forgotten, base in (("sums", "tales", 2.0), ("tales", "sums", 3.0)):
        for method, less in (("plain", 0.0), ("lwf", 0.1)):
            for seed in (0, 1):
                one = cell(method, seed, learned)
                metrics = replace(one.metrics[one.learning_task], bits_per_byte=base - less * (1 + seed))
                metrics.choice = ChoiceMetrics(0.5, 0.5, 0.25, 0.3 + less, 0.3) if learned == "sums" else None
                own = {**one.metrics, one.learning_task: metrics}
                neutral = 4.0 + less * (1 + seed) if learned == "sums" else None
                cells.append(replace(one, forgetting=forgotten, metrics=own, neutral_bits_per_byte=neutral))
    return groups_of(cells)


def test_fewer_bits_are_a_gain_of_the_pair():
    table = task_matrix(matrix(), "lwf", bits_saved, 3)
    assert row(table, "learned") == ["learned", "plain", "tales", "sums"]
    assert row(table, "sums")[1:] == ["2.000", f"+{fmean([0.1, 0.2]):.3f} [−0.485, 0.785]", "–"]
    assert row(table, "tales")[3].startswith("+0.150 [")
    assert "Mean over all pairs: +0.150 [−0.485, 0.785]; 2 seeds." in table


def test_a_task_without_options_has_no_row_of_accuracies():
    table = task_matrix(matrix(), "lwf", choice_accuracy, 2)
    assert row(table, "sums")[2].startswith("+0.10")
    assert "| tales |" not in table.split("\n", 2)[2]


def test_more_bits_on_neutral_text_are_a_loss():
    table = task_matrix(matrix(), "lwf", neutral_bits_saved, 3)
    assert row(table, "sums")[1:3] == ["4.000", f"−{fmean([0.1, 0.2]):.3f} [−0.785, 0.485]"]
    assert "| tales |" not in table.split("\n", 2)[2]


def test_methods_stand_beside_each_other_by_forgetting_set():
    cells = [
        replace(cell(method, seed), forgetting=forgotten, neutral_bits_per_byte=base - less * (1 + seed))
        for forgotten, base in (("tales", 2.0), ("mixed", 3.0))
        for method, less in (("plain", 0.0), ("lwf", 0.1), ("random", -0.2))
        for seed in (0, 1)
    ]
    table = methods_by_forgetting(groups_of(cells), neutral_bits_saved, 2)
    assert row(table, "method") == ["method", "tales", "mixed"]
    assert row(table, "plain")[1:] == ["2.00", "3.00"]
    assert row(table, "lwf")[1].startswith("+0.15 [")
    assert row(table, "random")[2].startswith("−0.30 [")
    assert table.endswith("2 seeds.")
