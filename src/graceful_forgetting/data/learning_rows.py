"""The learning rows as single examples, whatever the form in which a trainer takes them."""

from typing import Any

from datasets import Dataset, IterableDataset

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data.rows import IGNORE_INDEX

_ROW = ("input_ids", "labels")
_LENGTHS = "seq_lengths"


def single_examples(train_dataset: Dataset | IterableDataset, count: int | None = None) -> Dataset:
    """Tokenised rows with one learning example each, which is what a loss, a gradient or a score is of.

    - Rows that hold one example each: as they are.
    - Rows that TRL has packed without cutting across examples (`packing_strategy` 'bfd' or 'bfd_split', column
      `seq_lengths`): taken apart again. What 'bfd_split' has cut into pieces counts as so many examples, since it is
      trained on as such.
    - A stream: its first `count` rows, taken apart in the same way.

    Examples of packed rows in which no token counts are left out.

    Args:
        train_dataset: `input_ids` and `labels`, as `SFTTrainer` has prepared them.
        count: of a stream, how many rows are read; not used otherwise.

    Raises:
        ValueError: a stream without `count`.
    """
    if isinstance(train_dataset, IterableDataset):
        if count is None:
            raise ValueError("count is None: of a stream, it must be said how many rows are read")
        kept = (*_ROW, _LENGTHS)
        read = [{name: row[name] for name in kept if name in row} for row in train_dataset.take(count)]
        train_dataset = Dataset.from_list(read)
    if _LENGTHS not in train_dataset.column_names:
        return train_dataset
    packed = train_dataset.with_format(None)
    return packed.map(_apart, batched=True, remove_columns=packed.column_names, desc="Taking packed rows apart")


def _apart(rows: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
    examples: dict[str, list[list[int]]] = {name: [] for name in _ROW}
    for ids, labels, lengths in zip(*(rows[name] for name in (*_ROW, _LENGTHS)), strict=True):
        start = 0
        for length in lengths:
            part = slice(start, start + length)
            # The first token of an example is predicted from nothing.
            if any(label != IGNORE_INDEX for label in labels[part][1:]):
                examples["input_ids"].append(ids[part])
                examples["labels"].append(labels[part])
            start += length
    return examples


def check_single_examples(
    train_dataset: Dataset | IterableDataset, args: LWFConfig, *, all_are_read: bool, some_are_read: bool
) -> None:
    """Refuse, before any work, learning rows that `single_examples` cannot make what a run needs of.

    Args:
        train_dataset: of the trainer.
        args: settings of the run.
        all_are_read: for a baseline, or for an objective with learning rows.
        some_are_read: for the Fisher information or the scores.

    Raises:
        ValueError: names the setting and the remedy.
    """
    if args.packing and args.packing_strategy == "wrapped" and (all_are_read or some_are_read):
        raise ValueError(
            "packing_strategy='wrapped' cuts across learning examples, and the Fisher information, the scores, "
            "baselines and objective 'gradient_difference' are of single ones: use packing_strategy='bfd', or a "
            "forget_dataset that is already scored (column forgetting_confidence)"
        )
    if not isinstance(train_dataset, IterableDataset):
        return
    if all_are_read:
        raise ValueError(
            f"a streaming train_dataset cannot be used with baseline={args.baseline!r} and unlearn_objective="
            f"{args.unlearn_objective!r}, which read all learning rows: pass a Dataset"
        )
    if some_are_read and args.posterior_num_samples is None:
        raise ValueError(
            "a streaming train_dataset needs posterior_num_samples: of how many of its first rows the Fisher "
            "information and the scores are. Or pass a forget_dataset that is already scored (column "
            "forgetting_confidence)"
        )
