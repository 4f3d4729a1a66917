"""Memory and hours that the recipes of the paper's table should take: computed, not measured.

    python -m evidence.speed.estimate_paper          rewrite the tables of recipes/README.md
    python -m evidence.speed.estimate_paper --check  exit with 1 if that would change anything

Memory (bytes; N parameters, T trained ones, b rows a device, s tokens of the longest row, h width, l layers, i width of
the MLP, V vocabulary, w bytes a weight):

    training = w N + 4 T gradients + 8 T AdamW + 8 T AdamW of unlearning (+ 4 T where the trained weights are an
             adapter's) + activations(b);
    scoring  = w N + 8 T for F and F (theta_base - theta*_L) + activations(b of scoring);
    activations(b) = 2 b s h l checkpoints + b s (16 h + 6 i) inside the layer that is recomputed (16 bit)
             + 12 b s V logits, their softmax and its gradient (32 bit).

Time: 6 operations a parameter and token for forward and backward, 8 with recomputation, 2 for forward alone, at a fifth
of the device's peak: about half of what a well tuned training run reaches, since rows are short. Generated tokens are
bound by reading the weights once a step: w N / bandwidth, doubled for the key-value cache and overheads. Loading,
optimizer steps and writing checkpoints are not counted.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evidence.tables.pages import filled, update
from evidence.tables.table import table
from graceful_forgetting.results.text import fixed
from graceful_forgetting.results.text_tables import markdown_table

ROOT = Path(__file__).parents[2]
README = ROOT / "recipes" / "README.md"
# Public figures of one H100 SXM: dense bf16 operations a second, bytes a second.
PEAK, BANDWIDTH = 989e12, 3.35e12
UTILISATION = 0.2
# English text in Llama 3's vocabulary, about.
BYTES_PER_TOKEN = 4.0
# Worst case for memory: the longest row of the five tasks has 1,697 bytes.
LONGEST_TOKENS = 512


@dataclass(frozen=True)
class Shape:
    """What decides the number of parameters of a Llama."""

    width: int
    layers: int
    mlp: int
    key_value_width: int
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        attention = 2 * self.width * (self.width + self.key_value_width)
        layer = attention + 3 * self.width * self.mlp + 2 * self.width
        return self.vocabulary * self.width * (1 if self.tied else 2) + self.layers * layer + self.width

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on every linear layer but the output."""
        h, kv, i = self.width, self.key_value_width, self.mlp
        return self.layers * rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + i))


@dataclass(frozen=True)
class Task:
    """Rows of train and test on the hub, mean bytes of prompt and completion, of the completion, options."""

    train: int
    test: int
    row: float
    completion: float
    options: int


SHAPES = {
    "meta-llama/Llama-3.2-1B": Shape(2048, 16, 8192, 512, 128256, True),
    "meta-llama/Meta-Llama-3-8B": Shape(4096, 32, 14336, 1024, 128256, False),
}
# Row counts of the hub (dental: as many as the recipes use; psychol: our division), bytes in the form of our tasks.
TASKS = {
    "gsm8k": Task(7473, 1319, 501, 249, 1),
    "qasc": Task(8134, 926, 198, 15, 8),
    "sst5": Task(8544, 2210, 132, 10, 5),
    "dental": Task(8000, 1318, 210, 26, 4),
    "psychol": Task(1037, 259, 386, 45, 4),
}


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of training and of scoring, and hours by stage for one pair of tasks and one seed."""

    training_bytes: float
    scoring_bytes: float
    hours: dict[str, float]


def estimate(recipe: dict[str, Any], learning: str, forgetting: list[str]) -> Estimate:
    """Of one run of `recipe`; its stages are elicitation, plain, posterior, scores, lwf, evaluation."""
    shape = SHAPES[recipe["model_name_or_path"]]
    size, weight = shape.parameters, 2 if recipe.get("dtype") == "bfloat16" else 4
    trained = shape.adapter(recipe["lora_r"]) if recipe.get("use_lora") else size
    extra_copy = 4 * trained if recipe.get("use_lora") else 0

    def activations(rows: int) -> float:
        tokens, h = rows * LONGEST_TOKENS, shape.width
        return 2 * tokens * h * shape.layers + tokens * (16 * h + 6 * shape.mlp) + 12 * tokens * shape.vocabulary

    training = weight * size + 20 * trained + extra_copy + activations(recipe["per_device_train_batch_size"])
    scoring = weight * size + 8 * trained + extra_copy + activations(recipe["confidence_batch_size"])

    task = TASKS[learning]
    rows = min(task.train, recipe["learning_limit"])
    batch = recipe["per_device_train_batch_size"] * recipe.get("gradient_accumulation_steps", 1)
    updates = recipe["num_train_epochs"] * rows / batch
    learned = recipe["num_train_epochs"] * rows * task.row / BYTES_PER_TOKEN
    prompts = [min(TASKS[name].train, recipe["forgetting_limit"]) for name in forgetting]
    prompt_tokens = [(TASKS[name].row - TASKS[name].completion) / BYTES_PER_TOKEN for name in forgetting]
    answer = recipe["elicitation_max_new_tokens"]
    mean_self = sum(n * (p + answer) for n, p in zip(prompts, prompt_tokens, strict=True)) / sum(prompts)
    unlearned = updates / recipe["unlearn_every"] * recipe["per_device_unlearn_batch_size"] * mean_self

    def compute(operations: float, tokens: float) -> float:
        return operations * size * tokens / (PEAK * UTILISATION) / 3600

    def generate(number: float, length: int, together: int) -> float:
        return 2 * number / together * length * weight * size / BANDWIDTH / 3600

    tested = [TASKS[name] for name in (learning, *forgetting)]
    likelihood = sum(t.test * t.options * t.row / BYTES_PER_TOKEN for t in tested)
    answers = sum(t.test for t in tested)
    evaluated = generate(answers, recipe["eval_max_new_tokens"], recipe["evaluation_batch_size"])
    hours = {
        "elicitation": generate(sum(prompts), answer, recipe["elicitation_batch_size"]),
        "plain": compute(8, learned),
        "posterior": compute(8, rows * task.row / BYTES_PER_TOKEN),
        "scores": compute(12, sum(prompts) * mean_self),
        "lwf": compute(8, learned + unlearned),
        "evaluation (3 models)": 3 * (evaluated + compute(2, likelihood)),
    }
    return Estimate(training, scoring, hours)


def _recipe(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "paper" / name).read_text(encoding="utf-8"))
    return content


def run_table() -> str:
    """Memory and hours of the two recipes as they are, by stage."""
    rows = {name: estimate(_recipe(f"{name}.yaml"), "gsm8k", ["dental"]) for name in ("llama-3.2-1b", "llama-3-8b")}
    stages = list(next(iter(rows.values())).hours)
    columns: dict[str, Callable[[str], str]] = {
        "recipe": str,
        "GB, training": lambda name: fixed(rows[name].training_bytes / 1e9, 0),
        "GB, scoring": lambda name: fixed(rows[name].scoring_bytes / 1e9, 0),
        **{stage: lambda name, stage=stage: fixed(rows[name].hours[stage], 2) for stage in stages},
        "hours in all": lambda name: fixed(sum(rows[name].hours.values()), 1),
    }
    return table(rows, columns)


def grid_table() -> str:
    """Hours of the whole grids, in which cells share plain runs, answers, posteriors and scores."""
    rows = []
    for name in ("llama-3.2-1b", "llama-3-8b"):
        grid = _recipe(f"grid-{name}.yaml")
        seeds, hours, models = len(grid["seeds"]), 0.0, 0
        unlearning = [fields for fields in grid["methods"].values() if fields.get("arm", "lwf") == "lwf"]
        for learning in grid["learning"]:
            others = [task for task in grid["learning"] if task != learning]
            pairs = [[task] for task in others] + [others]
            for number, forgetting in enumerate(pairs):
                value = estimate(grid["base"], learning, forgetting).hours
                one_model = value["evaluation (3 models)"] / 3
                hours += seeds * len(unlearning) * (value["lwf"] + one_model)
                hours += seeds * (value["scores"] + one_model)
                models += seeds * len(unlearning)
                if number == 0:
                    hours += seeds * (value["plain"] + value["posterior"])
                    models += seeds
        # Each task's answers are elicited once.
        hours += sum(estimate(grid["base"], "gsm8k", [task]).hours["elicitation"] for task in grid["learning"])
        rows.append((f"grid-{name}", str(models), fixed(hours, 0)))
    return markdown_table(("grid", "trained models", "hours"), rows)


TABLES = {"run": run_table, "grid": grid_table}


def main() -> int:
    filled_in = filled(README.read_text(encoding="utf-8"), TABLES, "estimate")
    return update({README: filled_in}, "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
