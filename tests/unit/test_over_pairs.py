"""Tables of pairs of methods."""

from dataclasses import replace
from statistics import fmean, variance

import numpy as np
import pytest

from evidence.tables.over_pairs import gains_of_pairs, spreads_of_pairs
from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.sweeps.comparison import groups_of
from sweep_data import ITEMS, cell

# Right answers by build and seed; the builds differ by more than the seeds.
RIGHT = {"lwf": [[12, 10, 11], [4, 2, 3]], "random": [[9, 13, 11], [1, 2, 6]], "still": [[5, 5, 5], [7, 7, 7]]}


def worlds(right=RIGHT):
    """One world of as many builds as `right` has, with exactly these answers."""
    cells = []
    for method, builds in right.items():
        for build, seeds in enumerate(builds):
            for seed, number in enumerate(seeds):
                one = cell(method, seed)
                metrics = replace(one.metrics["sums"], accuracy=number / ITEMS)
                cells.append(replace(one, setting=f"build-{build}", metrics={"sums": metrics}))
    return {"sums": groups_of(cells)}


def row(table: str, method: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| `{method}` |")]
    return [part.strip() for part in line.strip("|").split("|")]


def test_a_pair_is_compared_seed_by_seed_over_builds():
    found = row(gains_of_pairs(worlds(), [("lwf", "random"), ("random", "still")]), "lwf")
    ours, theirs = ([n / ITEMS for build in RIGHT[name] for n in build] for name in ("lwf", "random"))
    expected = paired_interval(ours, theirs)
    assert found[1] == "`random`"
    assert found[2].startswith(f"{100 * expected.difference:+.1f} [{100 * expected.low:.1f}, ".replace("-", "−"))


def test_a_spread_is_that_within_builds():
    found = row(spreads_of_pairs(worlds(), [("random", "lwf")]), "random")
    ratio = fmean(map(variance, RIGHT["random"])) / fmean(map(variance, RIGHT["lwf"]))
    assert found[2].startswith(f"{ratio**0.5:.1f} [")


def test_the_interval_of_a_spread_has_the_truth_in_it_as_often_as_it_says():
    draw = np.random.default_rng(0)
    many = {
        f"world-{number}": worlds({"lwf": [draw.normal(20, 1, 5)], "random": [draw.normal(20, 2, 5)]})["sums"]
        for number in range(600)
    }
    found = row(spreads_of_pairs(many, [("random", "lwf")]), "random")[2:]
    bounds = [part.split("[")[1].strip("]").split(", ") for part in found]
    assert fmean(float(low) <= 2 <= float(high) for low, high in bounds) == pytest.approx(0.95, abs=0.03)


def test_what_does_not_vary_has_no_ratio():
    table = spreads_of_pairs(worlds(), [("still", "lwf"), ("random", "still")])
    assert row(table, "still")[2] == row(table, "random")[2] == "–"
