"""The whole build: prepare the data, train, measure, save. A second call continues an interrupted one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from graceful_forgetting.lab.base_model.card import model_card
from graceful_forgetting.lab.base_model.config import FREE_FIELDS, BaseModelConfig
from graceful_forgetting.lab.base_model.measure import bits_per_byte
from graceful_forgetting.lab.base_model.packing import Mixture, ShuffledBlocks, divide, spread
from graceful_forgetting.lab.base_model.preparation import PreparedData, find_inputs, prepare
from graceful_forgetting.lab.base_model.tokenizer import token_bytes
from graceful_forgetting.lab.base_model.training import train
from graceful_forgetting.runtime.artifacts import atomic_directory, read_json, write_json


def build_base_model(config: BaseModelConfig, announce: Callable[[str], None] = print) -> Path:
    """Train tokenizer and model from text and questions.

    `config.output_dir` gets `build.json` (settings), `data/` (tokenizer and tokens), `checkpoint-<step>/` (the newest)
    and `model/`: a Llama in bfloat16 with its tokenizer, `model.json` (what was done and measured) and a model card.
    Reproducible bit for bit with one CPU thread and torch version, interrupted or not.

    Args:
        config: settings.
        announce: gets lines of progress.

    Returns:
        the folder `model`.

    Raises:
        ValueError: a path or text that cannot be used; other settings than the build in `output_dir` has.
        FileNotFoundError, FileExistsError, NotADirectoryError: a path that is not there, or not free.
        FloatingPointError: training that diverges.
    """
    folder = Path(config.output_dir).expanduser()
    find_inputs(config)
    _open(folder, config)
    data = prepare(config, folder / "data", announce)
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = _initial_model(config, data.tokenizer).to(device)
    training, held_out = divide(data.text.numbers)
    mixture = Mixture(
        text=ShuffledBlocks(data.text, training, config.seed),
        questions=None
        if data.questions is None
        else ShuffledBlocks(data.questions, data.questions.numbers, config.seed),
        question_share=config.question_share if config.questions else 0.0,
        batch_size=config.batch_size,
    )
    announce(
        f"{model.num_parameters():,} parameters, {data.record['text_tokens']:,} tokens of text; "
        f"{config.steps} steps of {config.batch_size * config.block_size} tokens on {device}"
    )
    measure = partial(_measure, model, data, held_out, config.eval_blocks)
    progress = train(model, mixture, config, folder, measure, announce)
    record = {
        "settings": asdict(config),
        "data": data.record,
        "parameters": model.num_parameters(),
        "training_tokens": config.steps * config.batch_size * config.block_size,
        "epochs": mixture.epochs(config.steps),
        "seconds": progress.seconds,
        "cpu_seconds": progress.cpu_seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "losses": progress.losses,
        "measurements": progress.measurements,
    }
    # What is measured last is what is saved, with its rounded weights.
    model.to(torch.bfloat16)
    record["bits_per_byte"] = measure()
    with atomic_directory(folder / "model") as partial_folder:
        model.save_pretrained(partial_folder)
        data.tokenizer.save_pretrained(partial_folder)
        write_json(partial_folder / "model.json", record)
        (partial_folder / "README.md").write_text(model_card(record), encoding="utf-8")
    return folder / "model"


def _initial_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The untrained model, drawn from the seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_key_value_heads,
                max_position_embeddings=config.context_length,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )


def _measure(model: PreTrainedModel, data: PreparedData, held_out: np.ndarray, limit: int) -> dict[str, float]:
    """Bits per byte of the held-out blocks and of every measured text."""
    sizes = token_bytes(data.tokenizer)
    parts = {"held_out": (data.text, held_out), **{name: (part, part.numbers) for name, part in data.measured.items()}}
    return {
        name: round(bits_per_byte(model, blocks.read(spread(numbers, limit)), sizes), 4)
        for name, (blocks, numbers) in parts.items()
    }


def _open(folder: Path, config: BaseModelConfig) -> None:
    """Make `folder`, or check that it holds an earlier call of the same build."""
    for parent in (folder, *folder.parents):
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"output_dir={str(folder)!r}: {parent} is a file; choose another path")
    settings = folder / "build.json"
    if folder.exists() and any(folder.iterdir()):
        if not settings.is_file():
            raise FileExistsError(
                f"output_dir={str(folder)!r} is not empty and holds no earlier build; choose another folder"
            )
        if not config.overwrite:
            _check_same_build(folder, read_json(settings), config)
            return
        shutil.rmtree(folder)
    write_json(settings, asdict(config))


def _check_same_build(folder: Path, earlier: Any, config: BaseModelConfig) -> None:
    # Through JSON, so that lists and numbers compare as they were written.
    for name, value in json.loads(json.dumps(asdict(config))).items():
        if name not in FREE_FIELDS and earlier.get(name) != value:
            raise ValueError(
                f"{name}={value!r}, but the build in output_dir={str(folder)!r} has {earlier.get(name)!r}; "
                "choose another output_dir, or set overwrite=True to start anew"
            )
