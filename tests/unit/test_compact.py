"""Token ids and rows in little memory: read as they were written, from files without a name."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset, Features, List, Value
from transformers import LlamaConfig, LlamaForCausalLM

from graceful_forgetting import ConfidenceConfig, ElicitationConfig, elicit_self_knowledge, score_confidence
from graceful_forgetting.elicitation import elicit
from graceful_forgetting.generation import Completion, make_requests
from graceful_forgetting.gradients.rows import RowLengths, batches
from graceful_forgetting.runtime.compact import RowWriter, TokenLists
from tests.unit.test_elicitation import make_model, make_tokenizer

WHERE = pytest.mark.parametrize("on_disk", [False, True])


@WHERE
def test_token_lists_are_read_as_lists(tmp_path, on_disk):
    lists = [[3, 4, 5], [], [70000], [1]]
    found = TokenLists(lists[:2], tmp_path / "new" if on_disk else None)
    assert found[0] == [3, 4, 5]
    found.extend(lists[2:])
    assert list(found) == lists
    assert found[-1] == [1]
    assert found[1:3] == [[], [70000]]
    assert list(TokenLists(folder=tmp_path if on_disk else None)) == []
    with pytest.raises(IndexError):
        found[4]


@WHERE
def test_rows_outlive_their_writer_and_leave_no_file(tmp_path, on_disk):
    features = Features(text=Value("string"), ids=List(Value("int32")))
    writer = RowWriter(features, tmp_path if on_disk else None)
    parts = [Dataset.from_dict({"text": texts, "ids": [[1]] * len(texts)}, features) for texts in (["a", "b"], ["c"])]
    writer.write(parts[0].with_format("arrow")[[1, 0]])
    writer.write(parts[1].data)
    rows = writer.rows()
    del writer
    assert rows["text"][:] == ["b", "a", "c"]
    assert rows.features == features
    assert rows.sort("text").map(lambda row: {"text": row["text"] * 2})["text"][:] == ["aa", "bb", "cc"]
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_occurs_again_goes_on_counting_its_draws():
    prompts = [[5], [6, 7], [5], [8], [5], [6, 7]]
    config = ElicitationConfig(num_samples_per_prompt=2, temperature=1.0)
    seeds = [request.seed for request in make_requests(prompts, config)]
    again = [
        request.seed for request in make_requests([[5]], ElicitationConfig(num_samples_per_prompt=6, temperature=1.0))
    ]
    assert [seeds[place] for place in (0, 1, 4, 5, 8, 9)] == again
    assert len(set(seeds)) == len(seeds)


def test_rows_are_batched_longest_first_without_those_that_do_not_count():
    lengths = RowLengths([3, 0, 5, 3, 0, 9])
    assert dict(lengths) == {0: 3, 2: 5, 3: 3, 5: 9}
    assert len(lengths) == 4
    assert 1 not in lengths
    assert [list(batch) for batch in batches(lengths, 3)] == [[5, 2, 0], [3]]


class Backend:
    """Answers at once."""

    def complete(self, requests):
        for place, request in enumerate(requests):
            yield place, Completion([3 + request.seed % 9, 3, 4], stopped=False, mean_log_probability=-1.0)


@contextmanager
def opened(*_, **__) -> Iterator[Backend]:
    yield Backend()


def bytes_a_row(work) -> float:
    """What a row adds to the peak of Python's memory and to what Arrow holds at the end, beyond 2048 rows."""
    sizes = []
    for number in (2048, 2048, 6144):
        before = pyarrow.total_allocated_bytes()
        tracemalloc.start()
        held = work(number)
        sizes.append(tracemalloc.get_traced_memory()[1] + pyarrow.total_allocated_bytes() - before)
        tracemalloc.stop()
        del held
    return (sizes[2] - sizes[1]) / 4096


def test_elicitation_holds_an_index_and_no_answers(tmp_path: Path, monkeypatch):
    """About 60 bytes a prompt, where answers and prompts together took 1,400."""
    monkeypatch.setattr(elicit, "open_backend", opened)
    model, tokenizer, config = make_model(), make_tokenizer(), ElicitationConfig(max_new_tokens=4)
    words = [word for word in tokenizer.get_vocab() if word.startswith("w")]

    def work(number: int) -> Dataset:
        texts = [" ".join(words[(i // 7**place) % len(words)] for place in range(12)) for i in range(number)]
        folder = tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}"
        Dataset.from_dict({"prompt": texts}).save_to_disk(str(folder / "prompts"))
        tracemalloc.reset_peak()
        prompts = Dataset.load_from_disk(str(folder / "prompts"))
        return elicit_self_knowledge(model, tokenizer, prompts, config, resume_dir=folder / "shards")

    assert bytes_a_row(work) < 250


def test_scoring_holds_an_index_and_the_columns():
    """The eight columns of numbers take 64 bytes and 8 of nulls, lengths and order 20."""
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(config)

    def work(number: int) -> Dataset:
        rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * number, "labels": [[-100, 2, 3]] * number})
        tracemalloc.reset_peak()
        return score_confidence(model, rows, None, ConfidenceConfig(scorer="random"))

    assert bytes_a_row(work) < 250
