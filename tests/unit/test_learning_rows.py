"""Packed rows come apart into the examples that TRL has put together."""

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import pack_dataset

from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.data.learning_rows import single_examples

SIZE = 8
lengths = st.lists(st.tuples(st.integers(1, 2 * SIZE), st.integers(0, SIZE)), min_size=1, max_size=12)


def content(rows: Dataset) -> list[tuple[list[int], list[int]]]:
    return sorted((row["input_ids"], row["labels"]) for row in rows)


@settings(max_examples=25, deadline=None)
@given(lengths, st.sampled_from(["bfd", "bfd_split"]))
def test_packed_rows_come_apart(shapes, strategy):
    rows = []
    for number, (length, prompt) in enumerate(shapes):
        ids = [100 * number + position for position in range(length)]
        rows.append({"input_ids": ids, "labels": [IGNORE_INDEX] * min(prompt, length) + ids[prompt:]})
    expected = []
    for row in rows:
        for start in range(0, len(row["input_ids"]) if strategy == "bfd_split" else 1, SIZE):
            piece = {name: values[start : start + SIZE] for name, values in row.items()}
            if any(label != IGNORE_INDEX for label in piece["labels"][1:]):
                expected.append(piece)
    packed = pack_dataset(Dataset.from_list(rows), SIZE, strategy)
    assert content(single_examples(packed)) == sorted((p["input_ids"], p["labels"]) for p in expected)
    if expected:
        stream = packed.to_iterable_dataset()
        assert content(single_examples(stream, len(packed))) == content(single_examples(packed))


def test_single_rows_stay_as_they_are():
    rows = Dataset.from_list([{"input_ids": [1, 2], "labels": [IGNORE_INDEX, IGNORE_INDEX]}])
    assert single_examples(rows) is rows
    assert single_examples(rows.to_iterable_dataset(), 5).to_list() == rows.to_list()
    with pytest.raises(ValueError, match="it must be said how many rows"):
        single_examples(rows.to_iterable_dataset())
