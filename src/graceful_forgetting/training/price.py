"""The price of a run before its first long stage: time by stage, peak memory and disk.

A few batches are measured with a model that is in memory anyway; the rest is arithmetic with rows, tokens and updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import psutil
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.config.lwf import ForgetAnswers
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.data.encoding import encode_prompts
from graceful_forgetting.elicitation.options import OPTIONS_COLUMN
from graceful_forgetting.results.arms import OWN
from graceful_forgetting.results.text import duration, size
from graceful_forgetting.training.method import MethodRows
from graceful_forgetting.training.preparation import SCORE_COLUMN, needs_elicitation
from graceful_forgetting.training.work import FLOAT32_BYTES, Amounts, Lengths, Work, looked_at, unlearned_rows

# Below so many seconds a run is not worth a word.
SHORT = 20.0
# Below so many operations (6 a parameter and token) it is not worth a measurement.
FEW_OPERATIONS = 5e11
# Bytes of weights a second that are written and hashed, or read: a model in safetensors on a disk of today.
_STORAGE = 200e6


@dataclass(frozen=True)
class Speed:
    """Seconds that were measured, and what they say of the length of answers.

    Attributes:
        learned, differentiated, read, generated: of a token.
        step: of a step of the optimizer.
        ends: probability that an answer ends with the next token.
        activations: bytes that a token keeps for the backward pass.
    """

    learned: float
    differentiated: float
    read: float
    generated: float
    step: float
    ends: float
    activations: float

    def seconds(self, work: Work) -> float:
        """What the work takes."""
        return (
            work.learned * self.learned
            + work.differentiated * self.differentiated
            + work.read * self.read
            + work.generated * self.generated
            + work.steps * self.step
            + work.stored / _STORAGE
        )

    def answer(self, max_new_tokens: int) -> float:
        """Tokens of an answer, in the mean: of one that ends with the same probability everywhere, cut at the limit."""
        if self.ends == 0:
            return float(max_new_tokens)
        return (1 - (1 - self.ends) ** max_new_tokens) / self.ends


def worth_measuring(parameters: int, work: Mapping[str, Work]) -> bool:
    """Whether a run of so many parameters takes more than seconds, as far as can be told without a measurement."""
    return 2 * parameters * sum(stage.passes for stage in work.values()) > FEW_OPERATIONS


def pool_lengths(rows: MethodRows, answers: ForgetAnswers | None) -> tuple[bool, Lengths]:
    """Whether the model answers the forgetting prompts itself, and the lengths of them; else of them and their answers.

    `answers`: the setting `forget_answers`.
    """
    pool = rows.forgetting
    if pool is None:
        return False, Lengths(0, ())
    if SCORE_COLUMN not in pool.column_names and needs_elicitation(pool, answers):
        return True, Lengths.of(prompts_of(pool, rows.tokenizer), len(pool))
    some = looked_at(pool.with_format(None))
    if "input_ids" not in some.column_names:
        some = tokenize_dataset(some, rows.tokenizer, argument="forget_dataset", **rows.what_counts)
    return False, Lengths.of(some["input_ids"][:], len(pool))


def options_each(pool: Dataset | None) -> float:
    """Answers that each prompt names to choose from, in the mean; 1 where none does."""
    if pool is None or OPTIONS_COLUMN not in pool.column_names:
        return 1.0
    return fmean(max(1, len(options or ())) for options in looked_at(pool.with_format(None))[OPTIONS_COLUMN])


def prompts_of(pool: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokens of some of the prompts of forgetting rows."""
    return encode_prompts(list(looked_at(pool.with_format(None))), tokenizer)


# Memory, disk, and the text ------------------------------------------------------------------------------------------


def training_bytes(args: LWFConfig, amounts: Amounts, speed: Speed, layers: int, vocabulary: int) -> float:
    """What training takes beside the model: gradients, AdamW, the plain model to compare with, and a batch."""
    unlearns = args.unlearn_every > 0
    copies = 3 + (2 if unlearns and args.unlearn_schedule != "joint" else 0)
    compares = unlearns and args.guard_fallback and amounts.held_out.number > 0
    # The weights of the plain model, and in the comparison those of its rival too.
    copies += 2 if compares else 0
    tokens = float(args.train_batch_size * amounts.learning.longest)
    if unlearns:
        answer = speed.answer(args.elicitation_max_new_tokens) if amounts.elicits else 0.0
        tokens = max(tokens, unlearned_rows(args, amounts) * (amounts.prompts.longest + answer))
    logits = vocabulary * 3 * FLOAT32_BYTES
    batch = tokens * (speed.activations / (layers if args.gradient_checkpointing else 1) + logits)
    # While one model is loaded, that of the stage before may still be there.
    return copies * FLOAT32_BYTES * amounts.trained + amounts.model_bytes + batch


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process has of a device; of the processor, its resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def disk_bytes(work: Mapping[str, Work]) -> float:
    """What a run leaves on the disk, and what its largest stage needs beside it on its way."""
    return sum(stage.kept for stage in work.values()) + max((stage.scratch for stage in work.values()), default=0.0)


def price_text(seconds: Mapping[str, float], memory: float, disk: float, uncounted: Sequence[str]) -> str | None:
    """What a run will take, in lines; none where it is over in seconds.

    Args:
        seconds: of each stage, in their order.
        memory: bytes at the peak.
        disk: bytes.
        uncounted: what takes time and is not known.
    """
    whole = sum(seconds.values())
    if whole < SHORT:
        return None
    shown = {name: taken for name, taken in seconds.items() if taken > 0}
    width = max(len(name) for name in shown)
    lines = [
        f"ahead: about {duration(whole)}, {size(round(memory))} of memory, {size(round(disk))} of disk",
        *(f"  {name.ljust(width)}  {duration(taken):>12}" for name, taken in shown.items()),
    ]
    if uncounted:
        lines.append(f"  not counted: {', '.join(uncounted)}")
    return "\n".join(lines)


def price_of(
    work: Mapping[str, Work],
    speed: Speed,
    args: LWFConfig,
    amounts: Amounts,
    model: PreTrainedModel,
    uncounted: Sequence[str],
) -> str | None:
    """`price_text` of these stages, by name, at this speed; `model` is in memory."""
    seconds: dict[str, float] = {}
    for name, done in work.items():
        label = stage_label(name)
        seconds[label] = seconds.get(label, 0.0) + speed.seconds(done)
    config, memory = model.config.get_text_config(), float(memory_in_use(model.device))
    if any(done.learned > 0 for done in work.values()):
        memory += training_bytes(args, amounts, speed, config.num_hidden_layers, config.vocab_size)
    return price_text(seconds, memory, disk_bytes(work), uncounted)


def stage_label(name: str) -> str:
    """What a stage is called: that of all seeds of an arm, and of all trials, is one."""
    parts = [part for part in name.split("/") if not part.startswith("seed-")]
    if parts[0] == "evaluation":
        return f"evaluation of {parts[1].partition('-seed-')[0]}"
    if parts[0] == "trials":
        return "trial runs"
    named = {OWN: "fine-tuning with unlearning", "plain": "plain fine-tuning", "reference": "reference run"}
    return " ".join(named.get(part, part.replace("_", "-")) for part in parts)
