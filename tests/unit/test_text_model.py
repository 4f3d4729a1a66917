"""The shipped base model and its recipe: what a build saves, that it is reproducible, and what it refuses."""

import dataclasses
import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from graceful_forgetting.cli import main
from graceful_forgetting.lab.base_model import BaseModelConfig, build_base_model
from graceful_forgetting.lab.base_model.corpus import END_OF_DOCUMENT, read_documents, text_files
from graceful_forgetting.lab.base_model.measure import bits_per_byte
from graceful_forgetting.lab.base_model.overlap import NGRAM_WORDS, HeldOutRows
from graceful_forgetting.lab.base_model.packing import Blocks, Mixture, ShuffledBlocks, divide, spread, write_tokens
from graceful_forgetting.lab.base_model.questions import load_questions
from graceful_forgetting.lab.base_model.tokenizer import token_bytes, train_tokenizer
from graceful_forgetting.runs.recipe import parse_fields
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.tasks import TASKS, load_task
from graceful_forgetting.training.shipped import SHIPPED_NAME, resolve_model_name, shipped_model

ROOT = Path(__file__).parents[2]
TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 2,
    "num_key_value_heads": 1,
    "context_length": 64,
    "block_size": 32,
    "steps": 8,
    "batch_size": 2,
    "warmup_steps": 2,
    "decay_share": 0.5,
    "save_every": 3,
    "eval_every": 4,
    "eval_blocks": 4,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text of every kind, questions with a test split, and a text to measure."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "text").mkdir()
    stories = [
        f"Story {n}: {n} birds and {n + 1} foxes met at the well and told each other of the sea." for n in range(60)
    ]
    (folder / "text" / "a.txt").write_text(f"\n{END_OF_DOCUMENT}\n".join(stories[:20]), encoding="utf-8")
    with lzma.open(folder / "text" / "b.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(stories[20:40]))
    lines = [json.dumps({"text": story}) for story in stories[40:]]
    (folder / "text" / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "text" / "ignored.pdf").write_bytes(b"%PDF")
    (folder / "sums").mkdir()
    for split, numbers in (("train", range(40)), ("test", range(100, 104))):
        rows = [{"prompt": f"Question: {n} and {n + 1} make?\nAnswer:", "completion": f" {2 * n + 1}"} for n in numbers]
        (folder / "sums" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "news.txt").write_text(
        "\n".join(f"Ships left the harbour on day {n}." for n in range(60)), encoding="utf-8"
    )
    return folder


def tiny(sources: Path, output_dir: Path, **changes: object) -> BaseModelConfig:
    settings = {
        "text": [str(sources / "text")],
        "questions": [str(sources / "sums")],
        "question_share": 0.25,
        "eval_text": [str(sources / "news.txt")],
        "output_dir": str(output_dir),
    }
    return BaseModelConfig(**{**TINY, **settings, **changes})


def quiet(_line: str) -> None:
    """For builds whose progress is of no interest."""


@pytest.fixture(scope="module")
def built(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base_model(tiny(sources, tmp_path_factory.mktemp("built") / "base"), quiet)


def same_weights(first: Path, second: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# The build ------------------------------------------------------------------------------------------------------------


def test_saved_model_loads_and_generates(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    model = AutoModelForCausalLM.from_pretrained(built)
    assert model.dtype == torch.bfloat16
    assert model.config.vocab_size == len(tokenizer) == 300
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 64
    inputs = tokenizer("Question: 3 and 4 make?\nAnswer:", return_tensors="pt")
    output = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=4)
    assert output.shape[1] > inputs["input_ids"].shape[1]


def test_record_and_card_say_what_was_done(built: Path, sources: Path) -> None:
    record = read_json(built / "model.json")
    assert len(record["losses"]) == 8
    assert record["losses"][-1] < record["losses"][0]
    assert record["training_tokens"] == 8 * 2 * 32
    assert [row["step"] for row in record["measurements"]] == [4, 8]
    assert set(record["bits_per_byte"]) == {"held_out", "news"}
    documents = {Path(name).name: counts["documents"] for name, counts in record["data"]["text"].items()}
    assert documents == {"a.txt": 20, "b.txt.xz": 1, "c.jsonl": 20}
    assert record["data"]["questions"] == {str(sources / "sums"): {"used": 40, "left_out": 0}}
    assert record["parameters"] == AutoModelForCausalLM.from_pretrained(built).num_parameters()
    card = (built / "README.md").read_text(encoding="utf-8")
    assert f"| news | {record['bits_per_byte']['news']:.3f} |" in card
    assert "seed 42" in card


def test_measured_bits_per_byte_are_those_of_the_saved_weights(built: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    model = AutoModelForCausalLM.from_pretrained(built)
    blocks = Blocks(built.parent / "data" / "measured-news.bin", 32)
    value = bits_per_byte(model, blocks.read(spread(blocks.numbers, 4)), token_bytes(tokenizer))
    assert value == pytest.approx(read_json(built / "model.json")["bits_per_byte"]["news"], abs=1e-3)


def test_only_the_newest_checkpoint_stays(built: Path) -> None:
    assert sorted(path.name for path in built.parent.iterdir()) == ["build.json", "checkpoint-8", "data", "model"]


def test_same_seed_gives_the_same_model_and_leaves_the_global_generator(
    built: Path, sources: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    again = build_base_model(tiny(sources, tmp_path / "again"), quiet)
    assert torch.equal(torch.rand(1), expected)
    assert same_weights(built, again)
    assert (built / "tokenizer.json").read_bytes() == (again / "tokenizer.json").read_bytes()
    other = build_base_model(tiny(sources, tmp_path / "other", seed=1), quiet)
    assert not same_weights(built, other)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_interrupted_and_continued_equals_uninterrupted(optimizer: str, sources: Path, tmp_path: Path) -> None:
    whole = build_base_model(tiny(sources, tmp_path / "whole", optimizer=optimizer), quiet)
    config = tiny(sources, tmp_path / "parts", optimizer=optimizer)

    def interrupt(line: str) -> None:
        if line.startswith("step 4/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base_model(config, interrupt)
    assert (tmp_path / "parts" / "checkpoint-3").is_dir()
    continued = build_base_model(config, quiet)
    assert same_weights(whole, continued)
    records = [read_json(model / "model.json") for model in (whole, continued)]
    assert records[0]["losses"] == records[1]["losses"]


def test_steps_can_be_raised_before_the_rate_decays(built: Path, sources: Path, tmp_path: Path) -> None:
    longer = tiny(sources, tmp_path / "base", steps=16)

    def interrupt(line: str) -> None:
        if line.startswith("step 4/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base_model(longer, interrupt)
    assert same_weights(built, build_base_model(dataclasses.replace(longer, steps=8), quiet))
    with pytest.raises(ValueError, match=r"steps=16: .*checkpoint-8 has done 8 steps, past where"):
        build_base_model(longer, quiet)


def test_rate_warms_up_holds_and_falls() -> None:
    config = BaseModelConfig(text=["x"], steps=100, warmup_steps=10, decay_share=0.5, learning_rate=1.0)
    rates = [config.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert set(rates[10:51]) == {1.0}
    assert rates[75] == pytest.approx(1 - math.sqrt(0.5))
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_command_builds_from_a_folder(sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [item for name, value in TINY.items() for item in (f"--{name}", str(value))]
    flags += ["--text", str(sources / "text"), "--output_dir", str(tmp_path / "base"), "--steps", "1"]
    assert main(["base", "build", *flags]) == 0
    assert f"written: {tmp_path / 'base' / 'model'}" in capsys.readouterr().out
    assert main(["base", "build", *flags, "--seed", "3"]) == 2
    assert "seed=3, but the build in output_dir=" in capsys.readouterr().err
    assert main(["base", "build", "--text", str(tmp_path / "nowhere")]) == 2
    assert "text: there is no file or folder" in capsys.readouterr().err
    assert main(["base", "build", "--txt", "x"]) == 2
    assert "did you mean 'text'?" in capsys.readouterr().err


def test_the_recipe_is_that_of_the_shipped_model() -> None:
    (config,) = parse_fields((BaseModelConfig,), str(ROOT / "recipes" / "base_model.yaml"), [])
    settings = read_json(shipped_model() / "model.json")["settings"]
    assert dataclasses.asdict(config) == settings


def test_every_setting_has_a_help_text() -> None:
    for field in dataclasses.fields(BaseModelConfig):
        assert field.metadata["help"].endswith("."), field.name


# The shipped model ----------------------------------------------------------------------------------------------------


def test_shipped_model_is_small() -> None:
    size = sum(path.stat().st_size for path in shipped_model().rglob("*") if path.is_file())
    assert size < 12e6
    assert {path.name for path in shipped_model().iterdir()} >= {"config.json", "README.md", "tokenizer.json"}


def test_shipped_model_by_name() -> None:
    assert resolve_model_name(SHIPPED_NAME) == str(shipped_model())
    assert resolve_model_name("owner/name") == "owner/name"


def test_shipped_model_predicts_vendored_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped_model())
    model = AutoModelForCausalLM.from_pretrained(shipped_model(), dtype=torch.float32)
    rows = load_task("gsm8k", "test", source="sample", limit=20)
    ids = [token for row in rows for token in tokenizer(row["prompt"] + row["completion"])["input_ids"]]
    blocks = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
    assert bits_per_byte(model, blocks, token_bytes(tokenizer)) < 2.5


@pytest.mark.parametrize("name", ["gsm8k", "dental"])
def test_prompt_tokens_begin_the_tokens_of_prompt_and_completion(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped_model())
    assert name in TASKS
    for row in load_task(name, "test", source="sample", limit=20):
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(row["prompt"] + row["completion"])["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(whole, skip_special_tokens=True) == row["prompt"] + row["completion"]


# Its parts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_tokens_are_lossless_and_their_bytes_add_up(texts: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shipped_model())
    sizes = token_bytes(tokenizer)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert sum(sizes[token] for token in ids) == len(text.encode())


def test_bits_per_byte_of_a_uniform_model(make_model) -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    # 64 equally likely tokens of 2 bytes each: 6 bits a token.
    blocks = torch.randint(0, 64, (3, 10))
    assert bits_per_byte(model, blocks, [2] * 64) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="hold no text"):
        bits_per_byte(model, blocks, [0] * 64)


def test_token_file_holds_the_documents_with_their_marks(tmp_path: Path) -> None:
    texts = ["a first text", "another", "a third one of some length"]
    tokenizer = train_tokenizer(texts, 300, 64)
    count = write_tokens(texts, tokenizer, tmp_path / "tokens.bin", "tokens")
    expected = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    blocks = Blocks(tmp_path / "tokens.bin", 8)
    assert count == len(expected)
    assert blocks.read(blocks.numbers).flatten().tolist() == expected[: count // 8 * 8]
    assert expected.count(tokenizer.bos_token_id) == expected.count(tokenizer.eos_token_id) == 3


@given(count=st.integers(2, 300))
def test_held_out_blocks_are_never_trained_on(count: int) -> None:
    training, held_out = divide(np.arange(count))
    assert sorted([*training, *held_out]) == list(range(count))
    assert len(training) >= 1
    assert len(held_out) == max(1, count // 50)


@given(share=st.floats(0.05, 0.9), batch_size=st.integers(1, 7))
def test_mixture_reads_every_block_once_an_epoch_in_the_share_asked_for(
    share: float, batch_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    parts = []
    for name, first in (("text", 0), ("questions", 1000)):
        np.repeat(np.arange(first, first + 10, dtype=np.uint16), 2).tofile(folder / name)
        blocks = Blocks(folder / name, 2)
        parts.append(ShuffledBlocks(blocks, blocks.numbers, seed=0))
    mixture = Mixture(parts[0], parts[1], share, batch_size)
    steps = 60 // batch_size
    read = [row[0] for step in range(steps) for row in mixture.batch(step).tolist()]
    questions = [block for block in read if block >= 1000]
    assert len(questions) == math.floor(steps * batch_size * share)
    for stream in (questions, [block for block in read if block < 1000]):
        for start in range(0, len(stream), 10):
            epoch = stream[start : start + 10]
            assert len(set(epoch)) == len(epoch)
    assert mixture.batch(3).tolist() == mixture.batch(3).tolist()


def test_rows_that_repeat_a_test_row_are_left_out(tmp_path: Path) -> None:
    shared = "one two three four five six seven eight nine ten eleven twelve thirteen"
    rows = {
        "train": [f"before {shared} after", "one two three", "One, two!", shared.replace("seven", "7")],
        "test": [f"other {shared.upper()} end", "one two"],
    }
    for split, texts in rows.items():
        lines = [json.dumps({"prompt": text, "completion": " ."}) for text in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    questions = load_questions([str(tmp_path)], seed=0)
    assert questions.counts == {str(tmp_path): {"used": 2, "left_out": 2}}
    assert sorted(questions.texts) == sorted(["one two three .", shared.replace("seven", "7") + " ."])
    assert questions.held_out.count == 2


@given(st.lists(st.sampled_from("abc"), max_size=30), st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_overlap_agrees_with_looking_at_every_pair(text: list[str], row: list[str]) -> None:
    def runs(words: list[str]) -> list[list[str]]:
        return [words[start : start + NGRAM_WORDS] for start in range(max(1, len(words) - NGRAM_WORDS + 1))]

    expected = any(one == other for one in runs(text) for other in runs(row))
    assert bool(HeldOutRows([" ".join(row)]).shared_with(" ".join(text))) == expected


def test_long_documents_come_in_pieces_that_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graceful_forgetting.lab.base_model.corpus._PIECE", 50)
    lines = [f"line {n} of a long book" for n in range(20)]
    (tmp_path / "book.txt").write_text("\n".join([*lines, "x" * 200, END_OF_DOCUMENT, "the next"]), encoding="utf-8")
    pieces = list(read_documents(tmp_path / "book.txt"))
    assert max(map(len, pieces)) < 100
    assert "".join("".join(pieces).split()) == "".join("".join([*lines, "x" * 200, "the next"]).split())


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, r"steps=0 is not valid: it must be 1 or more"),
        ({"learning_rate": -1.0}, r"learning_rate=-1\.0 is not valid"),
        ({"learning_rate": math.nan}, r"learning_rate=nan is not valid"),
        ({"vocab_size": 100}, r"vocab_size=100 is not valid.*259.*to 65536"),
        ({"vocab_size": 70000}, r"vocab_size=70000 is not valid"),
        ({"hidden_size": 30}, r"hidden_size=30 is not valid.*num_heads=2"),
        ({"num_heads": 4, "num_key_value_heads": 3}, r"num_key_value_heads=3 is not valid: it must divide num_heads=4"),
        ({"block_size": 65}, r"block_size=65 is not valid.*context_length=64"),
        ({"question_share": 1.0}, r"question_share=1\.0 is not valid"),
        ({"question_share": 0.0}, r"question_share=0\.0 leaves the questions unread"),
        ({"optimizer": "sgd"}, r"optimizer='sgd' is not valid"),
        ({"text": []}, r"text=\[\] names nothing to train on"),
    ],
)
def test_setting_out_of_range(setting: dict, message: str, sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(sources, tmp_path, **setting)


def test_paths_that_cannot_be_used(sources: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, **changes: object) -> None:
        with pytest.raises(error, match=message):
            build_base_model(tiny(sources, tmp_path / "base", **changes), quiet)
        assert not (tmp_path / "base" / "data").exists()

    refused(FileNotFoundError, r"text: there is no file or folder 'nowhere'", text=["nowhere"])
    refused(FileNotFoundError, r"eval_text: there is no file", eval_text=["nowhere.txt"])
    (tmp_path / "empty").mkdir()
    refused(ValueError, r"text: the folder .*empty' holds no file that ends in \.txt", text=[str(tmp_path / "empty")])
    refused(ValueError, r"ignored\.pdf' is not text that can be read", text=[str(sources / "text" / "ignored.pdf")])
    refused(ValueError, r"eval_text: .*a\.txt is in text as well", eval_text=[str(sources / "text" / "a.txt")])
    refused(ValueError, r"unknown task 'gsm9k'.*gsm8k", questions=["gsm9k"])


def test_text_that_cannot_be_used(sources: Path, tmp_path: Path) -> None:
    def refused(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            build_base_model(tiny(sources, tmp_path / "base", text=[str(tmp_path / name)], overwrite=True), quiet)
        assert not (tmp_path / "base" / "data").exists()

    refused("empty.txt", b" \n\n", r"text=.*empty\.txt'\] holds too little text: 2 blocks of block_size=32")
    refused("latin.txt", "naïve".encode("latin-1"), r"latin\.txt is not UTF-8 text")
    refused("cut.txt.xz", lzma.compress(b"text" * 1000)[:-20], r"cut\.txt\.xz is not a complete xz file")
    refused("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}', r"bad\.jsonl:2 has no text")
    refused("bad.jsonl", b'{"text": "a"\n', r"bad\.jsonl:1 is not valid JSON")


def test_output_that_is_not_free(sources: Path, tmp_path: Path, built: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty and holds no earlier build"):
        build_base_model(tiny(sources, tmp_path / "thesis", overwrite=True), quiet)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(NotADirectoryError, match=r"thesis\.txt is a file"):
        build_base_model(tiny(sources, tmp_path / "thesis" / "thesis.txt" / "base"), quiet)
    with pytest.raises(ValueError, match=r"num_layers=3, but the build in output_dir=.* has 2"):
        build_base_model(tiny(sources, built.parent, num_layers=3), quiet)


def test_diverging_training_stops(sources: Path, tmp_path: Path) -> None:
    config = tiny(sources, tmp_path / "base", learning_rate=1e30, optimizer="adamw", warmup_steps=0)
    with pytest.raises(FloatingPointError, match=r"at step \d+; lower learning_rate=1e\+30"):
        build_base_model(config, quiet)
    assert not (tmp_path / "base" / "model").exists()


def test_folders_are_read_in_order_and_files_once(sources: Path) -> None:
    files = text_files("text", [str(sources / "text"), str(sources / "text" / "a.txt")])
    assert [file.name for file in files] == ["a.txt", "b.txt.xz", "c.jsonl"]
