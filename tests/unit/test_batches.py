"""The batch size of a stage: halved where memory runs out, and for good."""

import logging

import pytest
import torch

from graceful_forgetting.runtime.batches import BatchLimit, out_of_memory


def real_failure() -> Exception:
    """What torch raises on this machine for more memory than there is."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    return caught.value


FAILURES = {
    "device": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total of"),
    "machine": real_failure,
    "python": lambda: MemoryError(),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_failures_to_allocate_are_known(kind):
    assert out_of_memory(FAILURES[kind]())


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyError(3)])
def test_other_errors_pass(error):
    assert not out_of_memory(error)
    limit = BatchLimit("Scoring", 8)
    with pytest.raises(type(error)), limit.attempt(8):
        raise error
    assert limit.size == 8


@pytest.mark.parametrize("kind", FAILURES)
def test_a_part_is_done_again_in_halves_and_the_limit_stays(kind, caplog):
    limit, seen = BatchLimit("Scoring", 8), []

    def work(part):
        seen.append(len(part))
        if len(part) > 3:
            raise FAILURES[kind]()
        return [row * 10 for row in part]

    with caplog.at_level(logging.WARNING):
        parts = limit.in_parts(range(7), work)
        assert [value for part in parts for value in part] == [row * 10 for row in range(7)]
        assert seen == [7, 4, 2, 2, 2, 1]
        seen.clear()
        limit.in_parts(range(8), work)
    assert seen == [2, 2, 2, 2]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "once each time that the limit falls"
    assert said[0].startswith("Scoring runs out of memory with 7 rows at once")
    assert "goes on with 4" in said[0]
    assert "goes on with 2" in said[1]


def test_the_size_that_failed_is_named():
    with pytest.raises(ValueError, match=r"with one row at a time \(tried to allocate 20.00 MiB\): .*max_new_tokens"):
        BatchLimit("Evaluation", 4).in_parts([1, 2, 3], lambda _: _raise(FAILURES["device"]()))


def test_a_failure_after_others_went_well_loses_none_of_them():
    calls = []

    def work(part):
        calls.append(list(part))
        if len(calls) == 2:
            raise MemoryError
        return list(part)

    assert BatchLimit("Scoring", 4).in_parts(range(8), work) == [[0, 1, 2, 3], [4, 5], [6, 7]]
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7]]


def _raise(error):
    raise error
