"""Speed of elicitation on this machine against `model.generate`, one prompt at a time and in plain batches.

    python evidence/speed/elicitation.py [--shape 7M] [--prompts 64] [--repetitions 3] [--threads 1] [--output FILE]
    make real-model && python evidence/speed/elicitation.py --recipe recipes/uses/facts.yaml --prompts 32

A Llama of 6.5 M parameters, or shaped as SmolLM2-135M, with random weights completes prompts of 8 to 200 tokens
greedily, with at most 64 tokens and a set of EOS tokens that ends about half of the answers early. With `--recipe` the
model, the prompts and the longest answer are those of the recipe and its forgetting tasks. In each repetition
every way completes the same prompts, one after the other, so that a busy machine slows all of them down alike; the
ratios are paired, and their median is printed. All ways give the same tokens, but where rounding, which differs between
processors and batches, turns a near tie: such answers are counted, and more than a twentieth is an error. Elicitation
does more than its peers: it tokenises, notes the log-probability of every token and builds the data set.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from graceful_forgetting import ElicitationConfig, elicit_self_knowledge
from graceful_forgetting.data.encoding import encode_prompts
from graceful_forgetting.lab.bench.methods import SHAPES
from graceful_forgetting.results.provenance import collect_hardware, package_versions
from graceful_forgetting.results.text import fixed
from graceful_forgetting.results.text_tables import aligned
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.runtime.artifacts import write_json

SHORTEST, LONGEST, NEW = 8, 200, 64
Rows = list[list[int]]
EOS_SHARE = 0.03
SIZES = {"7M": {**SHAPES["7M"], "num_attention_heads": 8}, "135M": {**SHAPES["135M"], "tie_word_embeddings": True}}
BATCH_SIZES = (16, 32, 64)
MOST_OTHERS = 0.05


def build_model(shape: str, seed: int = 0) -> LlamaForCausalLM:
    """Random weights, large enough for greedy decoding not to fall into a loop at once."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **SIZES[shape],
        max_position_embeddings=512,
        initializer_range=0.15,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config).eval()
    chosen = torch.randperm(config.vocab_size - 3)[: int(EOS_SHARE * config.vocab_size)] + 3
    model.generation_config = GenerationConfig(eos_token_id=[1, *sorted(chosen.tolist())], pad_token_id=0)
    return model


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(3, vocabulary))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def draw_prompts(number: int, vocabulary: int, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (number,), generator=generator).tolist()
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


@dataclass
class Task:
    """Who answers what: a model, prompts as rows and as tokens, and the most tokens of an answer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Dataset
    prompts: Rows
    most: int

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        found = self.model.generation_config.eos_token_id
        return found if isinstance(found, list) else [found]

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_token_id


def random_task(shape: str, number: int) -> Task:
    """A model with random weights and prompts of random tokens."""
    model = build_model(shape)
    vocabulary = model.config.vocab_size
    tokenizer, prompts = build_tokenizer(vocabulary), draw_prompts(number, vocabulary)
    rows = Dataset.from_dict({"prompt": [tokenizer.decode(ids) for ids in prompts]})
    return Task(model, tokenizer, rows, prompts, NEW)


def recipe_task(recipe: str, number: int) -> Task:
    """The model of a recipe, evenly spaced prompts of its pool, and its limit of an answer."""
    with TemporaryDirectory() as folder:
        pipeline = Pipeline(*parse_recipe(recipe, ["--output_dir", folder]), announce=print)
        pool = pipeline.method.rows.forgetting
        assert pool is not None
        number = min(number, len(pool))
        rows = pool.select_columns(["prompt"]).select([i * len(pool) // number for i in range(number)])
        inputs = pipeline.inputs
        prompts = encode_prompts(list(rows), inputs.tokenizer)
        pipeline.directory.close()
        return Task(inputs.base_model(), inputs.tokenizer, rows, prompts, pipeline.lwf.elicitation_max_new_tokens)


def by_generate(task: Task, batch_size: int) -> Rows:
    """`model.generate` on batches of similar length; each answer up to and with its EOS token."""
    prompts, order = task.prompts, sorted(range(len(task.prompts)), key=lambda i: -len(task.prompts[i]))
    answers: dict[int, list[int]] = {}
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        width = max(len(prompts[i]) for i in rows)
        ids = torch.tensor([[task.pad] * (width - len(prompts[i])) + prompts[i] for i in rows])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in rows])
        generated = task.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=task.most, do_sample=False, pad_token_id=task.pad
        )
        for i, answer in zip(rows, generated[:, width:].tolist(), strict=True):
            end = next((at for at, token in enumerate(answer) if token in task.ends), task.most - 1)
            answers[i] = answer[: end + 1]
    return [answers[i] for i in range(len(prompts))]


def by_elicitation(task: Task, batch_size: int) -> Rows:
    rows = task.rows.add_column("row", list(range(len(task.rows))))
    config = ElicitationConfig(max_new_tokens=task.most, batch_size=batch_size)
    answers = {
        row["row"]: row["input_ids"][len(task.prompts[row["row"]]) :]
        for row in elicit_self_knowledge(task.model, task.tokenizer, rows, config)
    }
    return [answers[i] for i in range(len(rows))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SIZES, default="7M")
    parser.add_argument("--recipe")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(arguments.threads)
    if arguments.recipe is None:
        task = random_task(arguments.shape, arguments.prompts)
    else:
        task = recipe_task(arguments.recipe, arguments.prompts)
    prompts = task.prompts

    ways: dict[str, Callable[[], Rows]] = {
        "generate, one by one": lambda: by_generate(task, 1),
        "generate, batches of 32": lambda: by_generate(task, 32),
    }
    for size in BATCH_SIZES:
        ways[f"elicitation, batch_size {size}"] = lambda size=size: by_elicitation(task, size)

    by_generate(replace(task, prompts=prompts[:2]), 2)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    wanted: Rows | None = None
    others: dict[str, int] = {}
    for _ in range(arguments.repetitions):
        for name, way in ways.items():
            start = time.perf_counter()
            answers = way()
            seconds[name].append(time.perf_counter() - start)
            wanted = wanted or answers
            # Elicitation does not take an end for an answer.
            pairs = zip(answers, wanted, strict=True)
            others[name] = sum(answer != other and other[0] not in task.ends for answer, other in pairs)
            if others[name] > MOST_OTHERS * len(prompts):
                raise AssertionError(f"{name} gives {others[name]} other answers than one prompt at a time")
    assert wanted is not None

    first = seconds["generate, one by one"]
    tokens = sum(map(len, wanted))
    table: dict[str, dict[str, Any]] = {
        name: {
            "seconds": times,
            "tokens_per_second": tokens / statistics.median(times),
            "other_answers": others[name],
            "times_one_by_one": statistics.median(one / own for one, own in zip(first, times, strict=True)),
        }
        for name, times in seconds.items()
    }
    print(f"{len(prompts)} prompts, {tokens / len(prompts):.1f} tokens an answer, {arguments.threads} thread(s)")
    rows = [
        (name, fixed(row["tokens_per_second"], 0), fixed(row["times_one_by_one"], 2), str(row["other_answers"]))
        for name, row in table.items()
    ]
    print(aligned([("way", "tokens/s", "times one by one", "other answers"), *rows], ruled=True))
    if arguments.output:
        result = {
            "parameters": task.model.num_parameters(),
            "prompts": len(prompts),
            "prompt_tokens": [min(map(len, prompts)), max(map(len, prompts))],
            "max_new_tokens": task.most,
            "mean_answer_tokens": tokens / len(prompts),
            "ended_early": sum(len(answer) < task.most for answer in wanted),
            "threads": arguments.threads,
            "ways": table,
            "packages": package_versions(),
            "hardware": {"cpu_count": collect_hardware().cpu_count},
        }
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
