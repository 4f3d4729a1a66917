"""A sample of the damages that `make reliability` does: no other result, nothing kept, no traceback, no error."""

import pytest

from evidence.reliability.damage import STATES, WRONG, figures, run_damage


@pytest.mark.parametrize("state", STATES)
def test_a_damaged_run_is_mended_by_the_next_call(state):
    rows = list(run_damage(sample=4, states=(state,)))
    assert not figures(rows)["failed"]
    assert [name for row in rows for name in WRONG if row.get(name)] == []
    assert len(rows) == 4
