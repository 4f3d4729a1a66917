"""Pre-training both models of a world and writing them to a folder."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from graceful_forgetting.runtime.processor import processor_name
from graceful_forgetting.runtime.store import Entry, key_of
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.difficulty import Difficulty
from graceful_forgetting.worlds.pretraining import PretrainingData, answer_accuracy, pretrain
from graceful_forgetting.worlds.questions import Question
from graceful_forgetting.worlds.recipe import CONTEXT_LENGTH, PretrainingRecipe
from graceful_forgetting.worlds.tokenizer import build_tokenizer
from graceful_forgetting.worlds.world import Checkpoint

SUMMARY = "world.json"
CHECKPOINTS: tuple[Checkpoint, ...] = ("base", "never_knew")


def build_models(
    world: WorldDefinition,
    output_dir: str | Path,
    *,
    difficulty: Difficulty,
    seed: int,
    overwrite: bool = False,
) -> Path:
    """Pre-train `base` and `never_knew` and write them to `output_dir`; see `catalogue.build_world`."""
    output_dir = Path(output_dir).expanduser()
    if not output_dir.parent.is_dir():
        raise FileNotFoundError(
            f"output_dir={str(output_dir)!r}: folder {output_dir.parent.absolute()} does not exist; create it first"
        )
    if output_dir.exists() and not overwrite:
        raise FileExistsError(
            f"output_dir={str(output_dir)!r} exists already; choose another folder or set overwrite=True"
        )
    entry = Entry(output_dir, models_key(world, difficulty, seed), SUMMARY)
    entry.write(lambda folder: fill_models(folder, world, difficulty, seed))
    return output_dir


def models_key(world: WorldDefinition, difficulty: Difficulty, seed: int) -> str:
    """Hash of all that the weights follow from; of the difficulty, only what the pre-training reads counts."""
    return key_of(
        recipe=asdict(world.recipe_at(difficulty)),
        # A list: the order of the parts is the order of the rows.
        questions=[[name, [asdict(q) for q in part]] for name, part in world.pretraining().items()],
        not_known=sorted(world.not_known),
        seed=seed,
        torch=torch.__version__,
    )


def fill_models(folder: Path, world: WorldDefinition, difficulty: Difficulty, seed: int) -> dict[str, Any]:
    """Pre-train both models and write them into `folder`; returns what is worth knowing of them."""
    recipe = world.recipe_at(difficulty)
    started = time.perf_counter()
    models: dict[str, Any] = {}
    for which in CHECKPOINTS:
        model, models[which] = pretrain_model(world, which, recipe, seed)
        model.save_pretrained(folder / which)
        world_tokenizer(world).save_pretrained(folder / which)
    return {
        "world": world.name,
        "seed": seed,
        "recipe": asdict(recipe),
        "torch": torch.__version__,
        "processor": processor_name(),
        "seconds": round(time.perf_counter() - started, 2),
        "models": models,
    }


def world_tokenizer(world: WorldDefinition) -> PreTrainedTokenizerFast:
    """The tokenizer of both models, the same at every call: it knows every word of the world."""
    task = world.learning(world.train_share)
    taught = [question for part in world.pretraining().values() for question in part]
    words = {
        text
        for question in (*taught, *task.train, *task.validation, *task.test)
        for text in (question.prompt, *(f" {choice}" for choice in question.choices))
    }
    return build_tokenizer(words, CONTEXT_LENGTH)


def pretrain_model(
    world: WorldDefinition, which: Checkpoint, recipe: PretrainingRecipe, seed: int
) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """One model, and what is worth knowing of its pre-training (losses, accuracy by part, seconds).

    Both models of a seed start from the same weights and are trained for the same number of updates.
    """
    started = time.perf_counter()
    tokenizer = world_tokenizer(world)
    questions = world.pretraining()
    length = 2 + max(
        len(tokens)
        for part in questions.values()
        for tokens in tokenizer([question.prompt for question in part])["input_ids"]
    )
    data = {name: encode(part, tokenizer, length) for name, part in questions.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(recipe.model_config(tokenizer))
    parts = world.parts(which)
    losses = pretrain(
        model,
        _concatenate([data[part] for part in parts]),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        label_noise=recipe.label_noise,
        seed=seed,
        description=f"pre-training {world.name}, {which}",
    )
    return model, {
        "parts": parts,
        "parameters": model.num_parameters(),
        "losses": [round(loss, 4) for loss in losses],
        "accuracy": {part: answer_accuracy(model, rows) for part, rows in data.items()},
        "seconds": round(time.perf_counter() - started, 2),
    }


def encode(questions: list[Question], tokenizer: PreTrainedTokenizerFast, length: int) -> PretrainingData:
    """Tokens of prompt, answer and EOS, as supervised fine-tuning sees them, padded to `length`.

    Raises `ValueError` where an answer is not one token, or questions differ in their number of choices.
    """
    ids = tokenizer([question.prompt + question.completion + tokenizer.eos_token for question in questions])[
        "input_ids"
    ]
    prompts = tokenizer([question.prompt for question in questions])["input_ids"]
    if any(len(whole) != len(prompt) + 2 for whole, prompt in zip(ids, prompts, strict=True)):
        raise ValueError("every answer of a world must be one token, so that it can be mislabelled")
    input_ids = torch.full((len(ids), length), tokenizer.pad_token_id)
    for row, tokens in zip(input_ids, ids, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    alternatives = [
        tokenizer.convert_tokens_to_ids([f"Ġ{choice}" for choice in question.choices]) for question in questions
    ]
    return PretrainingData(
        input_ids=input_ids,
        answer_positions=torch.tensor([len(tokens) - 2 for tokens in ids]),
        alternatives=torch.tensor(alternatives),
    )


def _concatenate(parts: list[PretrainingData]) -> PretrainingData:
    def joined(name: str) -> Tensor:
        return torch.cat([vars(part)[name] for part in parts])

    return PretrainingData(joined("input_ids"), joined("answer_positions"), joined("alternatives"))
