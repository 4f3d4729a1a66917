"""From files to tokens on disk: the tokenizer, and one token file each for text, questions and measured texts."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from graceful_forgetting.lab.base_model.config import BaseModelConfig
from graceful_forgetting.lab.base_model.corpus import read_documents, text_files
from graceful_forgetting.lab.base_model.overlap import HeldOutRows
from graceful_forgetting.lab.base_model.packing import Blocks, write_tokens
from graceful_forgetting.lab.base_model.questions import Questions, load_questions
from graceful_forgetting.lab.base_model.tokenizer import train_tokenizer
from graceful_forgetting.runtime.artifacts import atomic_directory, read_json, write_json

# About how many characters of text the tokenizer is trained on; more changes little and takes memory.
_TOKENIZER_CHARACTERS = 16_000_000


@dataclass(frozen=True)
class PreparedData:
    """Everything that training reads.

    Attributes:
        tokenizer: of the model.
        text: blocks of text; some are held out (`packing.divide`).
        questions: blocks of question rows; none where the recipe names none.
        measured: blocks of the texts that are measured only, by name.
        record: what was read, in numbers.
    """

    tokenizer: PreTrainedTokenizerFast
    text: Blocks
    questions: Blocks | None
    measured: dict[str, Blocks]
    record: dict[str, Any]


def find_inputs(config: BaseModelConfig) -> tuple[list[Path], list[Path]]:
    """The text files to train on and those to measure.

    Raises:
        ValueError, FileNotFoundError: a path that cannot be used, or that is in both.
    """
    text, measured = text_files("text", config.text), text_files("eval_text", config.eval_text)
    both = {file.resolve() for file in text} & {file.resolve() for file in measured}
    if both:
        raise ValueError(
            f"eval_text: {', '.join(map(str, sorted(both)))} is in text as well and would be trained on; "
            "name the other files one by one in text, or move it elsewhere"
        )
    return text, measured


def prepare(config: BaseModelConfig, folder: Path, announce: Callable[[str], None]) -> PreparedData:
    """Read the files and write tokenizer and tokens to `folder`, or take them from there if it is complete.

    Memory is bounded by the questions and the longest piece of a document (about a million characters), not by the
    text.

    Raises:
        ValueError: no text, or too little for two blocks; a file that cannot be read.
        FileNotFoundError: a path that is not there.
    """
    if not (folder / "data.json").is_file():
        text, measured = find_inputs(config)
        questions = load_questions(config.questions, config.seed)
        for name, counts in questions.counts.items():
            announce(f"{name}: {counts['used']} rows, {counts['left_out']} left out (they repeat test rows)")
        with atomic_directory(folder) as partial:
            _write(config, partial, text, measured, questions)
    record = read_json(folder / "data.json")
    length = config.block_size
    return PreparedData(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text=Blocks(folder / "text.bin", length),
        questions=Blocks(folder / "questions.bin", length) if config.questions else None,
        measured={name: Blocks(folder / f"measured-{name}.bin", length) for name in record["measured"]},
        record=record,
    )


def _write(config: BaseModelConfig, folder: Path, text: list[Path], measured: list[Path], questions: Questions) -> None:
    tokenizer = train_tokenizer(_sample(text, questions.texts), config.vocab_size, config.context_length)
    tokenizer.save_pretrained(folder / "tokenizer")
    counter = _Counter(text, questions.held_out)
    record: dict[str, Any] = {
        "text_tokens": write_tokens(counter.documents(), tokenizer, folder / "text.bin", "reading text"),
        "text": counter.counts,
        "test_rows": questions.held_out.count,
        "test_rows_sharing_13_words_with_text": len(counter.shared),
        "questions": questions.counts,
    }
    _require_blocks("text", config.text, Blocks(folder / "text.bin", config.block_size), 2, config)
    if config.questions:
        count = write_tokens(questions.texts, tokenizer, folder / "questions.bin", "reading questions")
        record["question_tokens"] = count
        blocks = Blocks(folder / "questions.bin", config.block_size)
        _require_blocks("questions", config.questions, blocks, 1, config)
    record["measured"] = {}
    for file in measured:
        name = file.name.split(".")[0]
        if name in record["measured"]:
            raise ValueError(f"eval_text: two files are called {name!r}; rename one")
        path = folder / f"measured-{name}.bin"
        record["measured"][name] = write_tokens(read_documents(file), tokenizer, path, f"reading {name}")
        _require_blocks("eval_text", [str(file)], Blocks(path, config.block_size), 1, config)
    # Last: it marks the folder as complete.
    write_json(folder / "data.json", record)


def _sample(text: list[Path], questions: list[str]) -> Iterator[str]:
    """Questions and text for the tokenizer: of every file a share, so that all together is about the limit."""
    yield from questions
    size = sum(file.stat().st_size * (4 if file.suffix == ".xz" else 1) for file in text)
    share = min(1.0, _TOKENIZER_CHARACTERS / max(size, 1))
    generator = random.Random(0)
    for file in text:
        for document in read_documents(file):
            # Part of every document, since a file may hold a few long ones.
            length = max(1, round(len(document) * share))
            start = generator.randrange(len(document) - length + 1)
            yield document[start : start + length]


class _Counter:
    """Reads all documents once and counts them, their bytes, and the test rows that they share words with."""

    def __init__(self, files: list[Path], held_out: HeldOutRows):
        self.files = files
        self.held_out = held_out
        self.counts = {str(file): {"documents": 0, "bytes": 0} for file in files}
        self.shared: set[int] = set()

    def documents(self) -> Iterator[str]:
        for file in self.files:
            counts = self.counts[str(file)]
            for document in read_documents(file):
                counts["documents"] += 1
                counts["bytes"] += len(document.encode())
                if self.held_out.count:
                    self.shared |= self.held_out.shared_with(document)
                yield document


def _require_blocks(argument: str, value: list[str], blocks: Blocks, least: int, config: BaseModelConfig) -> None:
    if len(blocks) < least:
        raise ValueError(
            f"{argument}={value!r} holds too little text: {least} blocks of block_size={config.block_size} tokens are "
            f"needed and there are {len(blocks)}; "
            "give more text, or lower block_size"
        )
