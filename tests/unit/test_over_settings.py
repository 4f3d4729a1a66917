"""Tables over the settings of one world."""

from statistics import fmean

from evidence.tables.over_settings import evidence_table, gains_by_setting
from graceful_forgetting.sweeps.comparison import EVIDENCE_SHARE, groups_of
from sweep_data import METHODS, cell

SEEDS = range(6)


def cells():
    """Every method with many and with few learning rows; with few it is worse."""
    many = [cell(method, seed) for method in METHODS for seed in SEEDS]
    return many + [cell(method, seed, rows=25, shift=-0.4) for method in METHODS for seed in SEEDS]


def row(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [part.strip() for part in line.strip("|").split("|")]


def mean(method: str, setting: str) -> float:
    return 100 * fmean(one.score for one in cells() if (one.method, one.setting) == (method, setting))


def test_every_setting_has_its_gains_and_the_share_of_its_gap():
    table = gains_by_setting(groups_of(cells()), ("lwf", "random"), "lwf")
    for setting in ("default", "n25"):
        found = row(table, setting)
        plain = mean("plain", setting)
        assert found[1] == f"{plain:.1f}"
        for column, method in enumerate(("never_knew", "lwf", "random"), start=2):
            gain = mean(method, setting) - plain
            assert found[column].startswith(f"{gain:+.1f} [".replace("-", "−"))
        share = (mean("lwf", setting) - plain) / (mean("never_knew", setting) - plain)
        assert found[5].startswith(f"{100 * share:.0f} %".replace("-", "−"))
    assert table.endswith("6 seeds a setting.")


def test_evidence_is_the_fewest_examples_that_reach_the_target():
    table = evidence_table(groups_of(cells()))
    target = EVIDENCE_SHARE * mean("never_knew", "default")
    assert f"needed for {target:.1f}" in table
    assert row(table, "`never_knew`")[1:] == [
        f"{mean('never_knew', 'n25'):.1f}", f"{mean('never_knew', 'default'):.1f}", "100",
    ]  # fmt: skip
    assert row(table, "`plain`")[-1] == "–"
