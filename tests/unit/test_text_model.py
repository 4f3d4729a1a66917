"""The small text model: what it saves, that it is reproducible, and what it refuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from graceful_forgetting.artifacts import read_json
from graceful_forgetting.tasks import TASKS, load_task
from graceful_forgetting.worlds.text_model import build_text_model, sample_texts

TINY = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "context_length": 64,
    "steps": 5,
    "batch_size": 2,
    "block_size": 32,
}
TEXTS = [f"Question: {n} and {n + 1} make?\nAnswer: {2 * n + 1}" for n in range(40)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_text_model(tmp_path_factory.mktemp("text_model") / "model", TEXTS, **TINY)


def test_loads_with_the_auto_classes_and_generates(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    model = AutoModelForCausalLM.from_pretrained(built)
    assert model.config.model_type == "llama"
    assert model.config.vocab_size == len(tokenizer)
    inputs = tokenizer("Question: 3 and 4 make?\nAnswer:", return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=4,
        do_sample=False,
    )
    assert output.shape[1] > inputs["input_ids"].shape[1]


def test_record_says_what_was_done(built: Path) -> None:
    record = read_json(built / "model.json")
    assert record["settings"]["steps"] == len(record["losses"]) == 5
    assert record["documents"] == len(TEXTS)
    assert record["bytes"] == sum(len(text) for text in TEXTS)
    assert record["parameters"] == AutoModelForCausalLM.from_pretrained(built).num_parameters()
    assert record["losses"][-1] < record["losses"][0]
    assert not list(built.parent.glob("*.partial-*"))


def test_tokenizer_is_lossless_and_marks_the_beginning(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    text = "Naïve £3.50 → 漢字\n\t end  "
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer.model_max_length == 64


def test_digits_are_single_tokens(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    assert len(tokenizer("2024", add_special_tokens=False)["input_ids"]) == 4


@pytest.mark.parametrize("name", sorted(TASKS))
def test_prompt_tokens_begin_the_tokens_of_prompt_and_completion(name: str, built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    for row in load_task(name, "test", source="sample", limit=20):
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        assert whole[: len(prompt)] == prompt


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator(tmp_path: Path, built: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    again = build_text_model(tmp_path / "again", TEXTS, **TINY)
    assert torch.equal(torch.rand(1), expected)
    first, second = (load_file(folder / "model.safetensors") for folder in (built, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (built / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()


def test_another_seed_gives_other_weights(tmp_path: Path, built: Path) -> None:
    other = load_file(build_text_model(tmp_path / "other", TEXTS, **TINY, seed=1) / "model.safetensors")
    first = load_file(built / "model.safetensors")
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_default_texts_are_the_train_rows_of_the_samples() -> None:
    texts = sample_texts()
    assert len(texts) == 600
    row = load_task("dental", "test", source="sample")[0]
    assert row["prompt"] + row["completion"] not in texts
    assert row["prompt"] + row["completion"] in sample_texts("test")


def test_existing_folder_is_refused_unless_overwritten(tmp_path: Path) -> None:
    settings = {**TINY, "steps": 1}
    output = build_text_model(tmp_path / "model", TEXTS, **settings)
    with pytest.raises(FileExistsError, match="exists already; choose another folder or set overwrite=True"):
        build_text_model(output, TEXTS, **settings)
    build_text_model(output, TEXTS, **{**settings, "steps": 2}, overwrite=True)
    assert len(read_json(output / "model.json")["losses"]) == 2


def test_overwrite_spares_a_folder_that_is_no_text_model(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not an earlier text model"):
        build_text_model(tmp_path, TEXTS, **TINY, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    output = build_text_model(tmp_path / "models" / "text", TEXTS, **{**TINY, "steps": 1})
    assert (output / "config.json").is_file()


def test_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"output_dir=.*model': .*file is a file, not a folder"):
        build_text_model(tmp_path / "file" / "model", TEXTS, **TINY)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, r"steps=0 is not valid"),
        ({"learning_rate": -1.0}, r"learning_rate=-1\.0 is not valid"),
        ({"vocab_size": 100}, r"vocab_size=100 is not valid.*at least 259"),
        ({"hidden_size": 30}, r"hidden_size=30 is not valid.*num_heads=2"),
        ({"block_size": 65}, r"block_size=65 is not valid.*context_length=64"),
    ],
)
def test_setting_out_of_range(setting: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_text_model(tmp_path / "model", TEXTS, **{**TINY, **setting})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="texts holds no text"):
        build_text_model(tmp_path / "model", texts, **TINY)


def test_diverging_training_stops_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is \w+ at step \d+; lower learning_rate"):
        build_text_model(tmp_path / "model", TEXTS, **TINY, learning_rate=1e30)
    assert not list(tmp_path.iterdir())
