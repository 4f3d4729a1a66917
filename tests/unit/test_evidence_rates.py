"""Tables over learning rates."""

from dataclasses import replace
from statistics import fmean

from evidence.tables.rates import gains_at_best_rates, gains_by_rate
from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.sweeps.comparison import groups_of
from sweep_data import cell

SEEDS = range(4)
BUILDS = (0, 1)
SHIFTS = {
    "plain": {3e-4: -0.2, 6e-4: 0.0, 1.2e-3: -0.1},
    "never_knew": {3e-4: 0.0, 6e-4: -0.1, 1.2e-3: 0.0},
    "lwf": {3e-4: 0.0, 6e-4: -0.1, 1.2e-3: 0.05},
    "random": {3e-4: 0.0, 6e-4: 0.0, 1.2e-3: 0.0},
}
RATES = tuple(SHIFTS["plain"])


def cells():
    """Every method at every rate on two builds; which rate is best differs between methods."""
    found = []
    for build in BUILDS:
        for rate in RATES:
            for method in SHIFTS:
                for seed in SEEDS:
                    one = cell(method, seed, shift=SHIFTS[method][rate] - build * 0.05)
                    config = {**one.config, "world_seed": build, "learning_rate": rate}
                    found.append(replace(one, setting=f"build-{build}-rate-{rate}", config=config))
    return found


def scores(method: str, rate: float) -> list[float]:
    known = {(one.config["world_seed"], one.seed): one.score for one in cells() if one.method == method
             and one.config["learning_rate"] == rate}  # fmt: skip
    return [known[build, seed] for build in BUILDS for seed in SEEDS]


def best(method: str, chosen_for: str) -> list[float]:
    """The slow way: for every run, all rates are compared without it."""
    found = []
    for index in range(len(BUILDS) * len(SEEDS)):
        build = index // len(SEEDS)
        mates = [i for i in range(build * len(SEEDS), (build + 1) * len(SEEDS)) if i != index]
        by_rate = [(fmean(scores(chosen_for, rate)[i] for i in mates), -RATES.index(rate)) for rate in RATES]
        rate = RATES[-max(by_rate)[1]]
        found.append(scores(method, rate)[index])
    return found


def expected(ours: list[float], plain: list[float]) -> str:
    found = paired_interval(ours, plain)
    assert found.low is not None
    assert found.high is not None
    text = f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return text.replace("-", "−")


def rows(table: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"]


def test_every_rate_has_its_gains_pooled_over_builds():
    table = gains_by_rate({"sums": groups_of(cells())}, ("lwf", "absent"))
    found = rows(table)
    assert [row[1] for row in found] == ["3e-4", "6e-4", "1.2e-3"]
    for row, rate in zip(found, RATES, strict=True):
        plain = scores("plain", rate)
        assert row[2] == f"{100 * fmean(plain):.1f}"
        assert row[3] == expected(scores("never_knew", rate), plain)
        assert row[4] == expected(scores("lwf", rate), plain)
        assert row[5] == "–"
    assert table.endswith("sums 8.")


def test_each_method_has_its_own_best_rate_and_never_knew_has_that_of_plain():
    (found,) = rows(gains_at_best_rates({"sums": groups_of(cells())}, ("lwf", "random", "absent")))
    plain = best("plain", "plain")
    assert found[1] == f"{100 * fmean(plain):.1f}"
    assert found[2] == expected(best("never_knew", "plain"), plain)
    assert found[3] == expected(best("lwf", "lwf"), plain)
    assert found[4] == expected(best("random", "random"), plain)
    assert found[5] == "–"


def test_no_run_takes_part_in_choosing_its_own_rate():
    """Two seeds, two rates, each right at one: what is best for the other seed is wrong for both."""

    def at(rate: float, seed: int, right: bool):
        one = cell("plain", seed)
        metrics = replace(one.metrics["sums"], accuracy=float(right), correct=right * one.metrics["sums"].total)
        config = {**one.config, "world_seed": 0, "learning_rate": rate}
        return replace(one, setting=f"rate-{rate}", config=config, metrics={"sums": metrics})

    found = [at(1e-3, 0, True), at(1e-3, 1, False), at(2e-3, 0, False), at(2e-3, 1, True)]
    (row,) = rows(gains_at_best_rates({"sums": groups_of(found)}, ()))
    assert row[1] == "0.0"
