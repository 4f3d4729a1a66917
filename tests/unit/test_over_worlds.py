"""Tables over several worlds."""

from dataclasses import replace
from statistics import fmean

from evidence.tables.over_worlds import (
    best_plain_runs,
    one_world,
    outcomes,
    outcomes_by_share,
    world_gains,
    world_shares,
)
from graceful_forgetting.results.result import GuardResult
from graceful_forgetting.sweeps.comparison import groups_of
from sweep_data import cell

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
    (line,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
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
    for name, kept, gain in zip(("none", "0 to 20 %", "20 to 40 %"), (0, 100, 100), gains, strict=True):
        assert f"| {name} | 1 | {kept} % | {gain} |" in table
    assert "2 runs" in table
