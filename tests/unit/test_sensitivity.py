"""The table of settings varied around their defaults."""

from statistics import fmean

from evidence.tables.sensitivity import sensitivity
from graceful_forgetting.sweeps.comparison import groups_of
from sweep_data import cell

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
