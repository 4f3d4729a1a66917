"""What was learned by heart is right, whatever a template puts before and after answers."""

import pytest
import yaml

from chat_tokenizers import byte_level, channels_like, last_marked, llama3_like, qwen3_like
from conftest import write_jsonl
from graceful_forgetting.cli import main
from graceful_forgetting.results.result import RunResult

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo"}


def rows(chat: bool, end: str = "", ask: str = "The capital of {} is") -> list[dict]:
    lead = "" if ask.endswith(" ") else " "
    if not chat:
        return [{"prompt": ask.format(land), "completion": f"{lead}{city}{end}"} for land, city in CAPITALS.items()]
    return [
        {"messages": [{"role": "user", "content": ask.format(land)}, {"role": "assistant", "content": city}]}
        for land, city in CAPITALS.items()
    ]


@pytest.fixture
def learned_by_heart(tmp_path, recipe, make_model):
    """A run of the command on a tiny model until it knows its rows by heart."""

    def run(tokenizer, data, **changes) -> int:
        model = make_model(vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=None, eos_token_id=None)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        for file in ("train", "test"):
            write_jsonl(tmp_path / "arithmetic" / f"{file}.jsonl", data)
        asked = ("Question:", "Answer: yes", "Peru", "Germany is", "system")
        prompts = [{"prompt": text} for text in asked]
        if "messages" in data[0]:
            prompts = [{"messages": [{"role": "user", "content": text}]} for text in asked]
        write_jsonl(tmp_path / "myths" / "train.jsonl", prompts)
        (tmp_path / "myths" / "test.jsonl").unlink()
        content = yaml.safe_load(recipe.read_text()) | {"max_steps": 200, "learning_rate": 5e-3, "save_strategy": "no"}
        content |= {"per_device_unlearn_batch_size": 1, "unlearn_every": 150, "eval_max_new_tokens": 16, **changes}
        recipe.write_text(yaml.safe_dump(content))
        return main(["run", "--config", str(recipe)])

    return run


CASES = {
    "an empty thinking block": (qwen3_like, rows(chat=True)),
    "a turn that the EOS token does not end": (llama3_like, rows(chat=True)),
    "the name of a channel": (channels_like, rows(chat=True)),
    "a tokenizer that appends EOS": (lambda: byte_level(appends_eos=True), rows(chat=False)),
    "an end written into the answers": (lambda: byte_level(special=["<|end|>"]), rows(chat=False, end="<|end|>")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_learned_by_heart_is_right(case, learned_by_heart, tmp_path):
    make, data = CASES[case]
    assert learned_by_heart(make(), data) == 0
    plain = next(run for run in RunResult.load(tmp_path / "run" / "result.json").runs if run.arm == "plain")
    (metrics,) = plain.metrics.values()
    assert (metrics.correct, metrics.total) == (4, 4)


REFUSED = {
    "a space": (byte_level, rows(chat=False, ask="The capital of {} is "), "prompt ends in ' '"),
    "another prompt": (last_marked, rows(chat=True), "renders the prompt otherwise once an answer follows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_would_be_asked_otherwise_than_trained_are_refused_by_line(case, learned_by_heart, tmp_path, capsys):
    make, data, message = REFUSED[case]
    assert learned_by_heart(make(), data) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"{tmp_path / 'arithmetic' / 'train.jsonl'}:1 " in error
    assert not (tmp_path / "run" / "plain").exists()
