"""An elicitation that is killed goes on from its last shard and ends as if nothing had happened."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_from_disk

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation import backends, elicit_self_knowledge, elicit_with_counts, shards
from graceful_forgetting.generation import complete

SETTINGS = {"max_new_tokens": 5, "temperature": 1.0, "num_samples_per_prompt": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 6)


def rows() -> Dataset:
    return Dataset.from_dict({"prompt": [" ".join(f"w{i + j}" for j in range(1 + i % 5)) for i in range(12)]})


@pytest.fixture
def asked(monkeypatch):
    """Number of completions of each shard that is really generated; the third one fails while `asked.limit` says so."""

    class Asked(list):
        limit = None

    calls = Asked()

    def counting(model, requests, config, **kwargs):
        if calls.limit == len(calls):
            raise KeyboardInterrupt
        calls.append(len(requests))
        return complete(model, requests, config, **kwargs)

    monkeypatch.setattr(backends, "complete", counting)
    return calls


def test_resumed_is_uninterrupted(make_model, tokenizer, tmp_path, asked):
    model = make_model(initializer_range=0.4).eval()
    folder, whole = tmp_path / "work", tmp_path / "whole"

    def elicit(place: Path, **changes):
        config = ElicitationConfig(**SETTINGS | changes)
        said: list[str] = []
        result = elicit_with_counts(model, tokenizer, rows(), config, resume_dir=place, announce=said.append)
        return *result, said

    expected, counts, said = elicit(whole)
    assert asked == [6] * 4
    assert "tokens per second" in said[-1]
    assert counts.tokens_per_second == pytest.approx(counts.tokens / counts.seconds)

    asked.clear()
    asked.limit = 2
    with pytest.raises(KeyboardInterrupt):
        elicit(folder)
    asked.limit = None
    # Another question does not read these shards.
    other, *_ = elicit(folder, seed=7)
    assert other.to_list() != expected.to_list()
    asked.clear()
    resumed, again, said = elicit(folder)
    assert asked == [6] * 2
    assert "2 of 4 shards were elicited before" in said
    assert resumed.to_list() == expected.to_list()
    assert again.tokens == counts.tokens


def test_finished_shards_answer_only_the_same_question(make_model, tokenizer, tmp_path, asked):
    model = make_model(initializer_range=0.4).eval()

    def elicit(prompts=None, **changes):
        asked.clear()
        config = ElicitationConfig(max_new_tokens=4, **changes)
        elicit_self_knowledge(model, tokenizer, prompts or rows(), config, resume_dir=tmp_path)
        return len(asked)

    assert elicit() == 2
    # What does not decide the answers: batch size, the seed of greedy decoding, columns beside the prompt.
    assert elicit(batch_size=2) == elicit(seed=7) == elicit(rows().add_column("source", ["x"] * 12)) == 0
    assert elicit(temperature=1.0) == elicit(temperature=1.0, seed=7) == elicit(temperature=2.0) == 2
    assert elicit(rows().select(range(11, -1, -1))) == 2
    with torch.no_grad():
        model.lm_head.weight[5] += 0.01
    assert elicit() == 2


@pytest.mark.parametrize("file", ["record.json", "completions/data-00000-of-00001.arrow", "completions/state.json"])
def test_damaged_shard_is_made_again(file, make_model, tokenizer, tmp_path, asked, caplog):
    model = make_model(initializer_range=0.4).eval()
    config = ElicitationConfig(**SETTINGS)
    expected = elicit_self_knowledge(model, tokenizer, rows(), config, resume_dir=tmp_path)
    damaged = sorted(tmp_path.iterdir())[1] / file
    damaged.write_bytes(damaged.read_bytes()[:30])
    asked.clear()
    again = elicit_self_knowledge(model, tokenizer, rows(), config, resume_dir=tmp_path)
    assert asked == [6]
    assert f"its {file} is damaged" in caplog.text
    assert again.to_list() == expected.to_list()


SCRIPT = """
import os, signal, sys
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer
from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation import elicit_self_knowledge, shards

folder = sys.argv[1]
shards.SHARD_SIZE = 6
save, saved = shards._save, []

def save_and_die(*args):
    save(*args)
    saved.append(args)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

shards._save = save_and_die
elicit_self_knowledge(
    AutoModelForCausalLM.from_pretrained(folder + "/model"), AutoTokenizer.from_pretrained(folder + "/model"),
    load_from_disk(folder + "/rows"), ElicitationConfig(**SETTINGS), resume_dir=folder + "/work",
)
"""


def test_killed_process_leaves_whole_shards(make_model, tokenizer, tmp_path, asked):
    model = make_model(initializer_range=0.4).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows().save_to_disk(str(tmp_path / "rows"))
    script = SCRIPT.replace("**SETTINGS", f"**{SETTINGS!r}")
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    config = ElicitationConfig(**SETTINGS)
    prompts = load_from_disk(str(tmp_path / "rows"))
    resumed = elicit_self_knowledge(model, tokenizer, prompts, config, resume_dir=tmp_path / "work")
    assert asked == [6] * 2
    assert resumed.to_list() == elicit_self_knowledge(model, tokenizer, prompts, config).to_list()
