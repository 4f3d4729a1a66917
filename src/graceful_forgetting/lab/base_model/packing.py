"""Token files: documents one after the other as uint16, read through a memory map in blocks of equal length."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from graceful_forgetting.runtime.progress import progress_bar

# Every so many blocks, one is never trained on and measures the model.
HELD_OUT_EVERY = 50
_ENCODED_AT_ONCE = 64


def write_tokens(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, path: Path, description: str) -> int:
    """Write the tokens of `documents`, each with BOS before and EOS after it, and return their number."""
    count = 0
    source = iter(documents)
    with path.open("wb") as file, progress_bar(description, "tokens", unit_scale=True) as progress:
        while batch := list(islice(source, _ENCODED_AT_ONCE)):
            for ids in tokenizer(batch, verbose=False)["input_ids"]:
                tokens = np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16)
                tokens.tofile(file)
                count += len(tokens)
                progress.update(len(tokens))
    return count


class Blocks:
    """The whole blocks of a token file.

    Args:
        path: written by `write_tokens`.
        length: tokens a block; what is left at the end of the file is not read.
    """

    def __init__(self, path: Path, length: int):
        count = path.stat().st_size // (2 * length)
        # A file of no bytes cannot be mapped.
        tokens = np.memmap(path, dtype=np.uint16, mode="r") if count else np.empty(0, dtype=np.uint16)
        self._blocks = tokens[: count * length].reshape(count, length)

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def numbers(self) -> np.ndarray:
        """The number of every block, in order."""
        return np.arange(len(self._blocks))

    def read(self, indices: Iterable[int]) -> torch.Tensor:
        """Token ids, (number of indices, length)."""
        return torch.from_numpy(self._blocks[list(indices)].astype(np.int64))


def divide(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The blocks to train on, and the held-out ones: every fiftieth, or the last where fewer are."""
    held_out = numbers % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    if len(numbers) < HELD_OUT_EVERY:
        held_out[-1:] = True
    return numbers[~held_out], numbers[held_out]


class ShuffledBlocks:
    """An endless sequence of blocks: each epoch has all in an order of its own, drawn from seed and epoch alone.

    Any position can be asked for, so a continued run needs no state.
    """

    def __init__(self, blocks: Blocks, numbers: np.ndarray, seed: int):
        self.blocks = blocks
        self.numbers = numbers
        self.seed = seed
        self._epoch = -1
        self._order = numbers

    def number_at(self, position: int) -> int:
        """Number of the block at `position` (from 0) of the sequence."""
        epoch, place = divmod(position, len(self.numbers))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.numbers)
            self._epoch = epoch
        return int(self._order[place])


class Mixture:
    """Batches of text and question blocks in a fixed ratio.

    Args:
        text: sequence of text blocks.
        questions: sequence of question blocks; none for text alone.
        question_share: share of the blocks that hold questions.
        batch_size: blocks a batch.
    """

    def __init__(self, text: ShuffledBlocks, questions: ShuffledBlocks | None, question_share: float, batch_size: int):
        self.text = text
        self.questions = questions
        self.question_share = question_share
        self.batch_size = batch_size

    def batch(self, step: int) -> torch.Tensor:
        """Token ids of the batch at `step` (from 0), (batch_size, block length)."""
        first = step * self.batch_size
        rows = [self._block(position) for position in range(first, first + self.batch_size)]
        return torch.cat(rows)

    def epochs(self, steps: int) -> dict[str, float]:
        """How often `steps` batches go through the text and the questions."""
        blocks = steps * self.batch_size
        asked = int(blocks * self.question_share)
        epochs = {"text": (blocks - asked) / len(self.text.numbers)}
        if self.questions is not None:
            epochs["questions"] = asked / len(self.questions.numbers)
        return {name: round(value, 3) for name, value in epochs.items()}

    def _block(self, position: int) -> torch.Tensor:
        # Question blocks are spread evenly: one wherever the running count of them passes a whole number.
        before, after = (int(number * self.question_share) for number in (position, position + 1))
        if self.questions is not None and after > before:
            return self.questions.blocks.read([self.questions.number_at(before)])
        return self.text.blocks.read([self.text.number_at(position - before)])


def spread(numbers: np.ndarray, limit: int) -> list[int]:
    """At most `limit` of `numbers`, evenly spaced."""
    places = np.linspace(0, len(numbers) - 1, min(limit, len(numbers))).round().astype(int)
    chosen: list[int] = numbers[places].tolist()
    return chosen
