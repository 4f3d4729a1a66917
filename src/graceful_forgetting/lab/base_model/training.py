"""The training loop: one step from the batches, checkpoints that continue bit for bit, measurements on the way."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from graceful_forgetting.lab.base_model.config import BaseModelConfig
from graceful_forgetting.lab.base_model.optimisers import (
    clip,
    make_optimizers,
    optimizer_tensors,
    restore_optimizers,
    set_rate,
)
from graceful_forgetting.lab.base_model.packing import Mixture
from graceful_forgetting.runtime.artifacts import read_json, remove_partials, write_json
from graceful_forgetting.runtime.progress import progress_bar
from graceful_forgetting.runtime.store import Entry


@dataclass
class Progress:
    """What has been done so far.

    Attributes:
        step: updates done.
        seconds: time spent on them, over all calls, in seconds.
        cpu_seconds: CPU time of it, in seconds: on a machine that is shared, far less.
        decay_start: step at which the learning rate begins to fall, as planned when this was written.
        losses: training loss by step, in nats per token.
        measurements: bits per byte by text, with their step.
    """

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    decay_start: int = 0
    losses: list[float] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)


def train(
    model: PreTrainedModel,
    data: Mixture,
    config: BaseModelConfig,
    folder: Path,
    measure: Callable[[], dict[str, float]],
    announce: Callable[[str], None],
) -> Progress:
    """Train in place up to `config.steps`, from the newest checkpoint in `folder` if there is one.

    Training uses no random numbers beside the order of the blocks, which depends on the step alone: a continued run
    equals an uninterrupted one wherever the operations themselves are reproducible.

    Args:
        model: with its initial weights, on its device.
        data: the batches.
        config: settings.
        folder: holds the checkpoints.
        measure: gives bits per byte by text.
        announce: gets a line of text at every measurement.

    Raises:
        FloatingPointError: a loss or gradient that is not finite; names the step.
        ValueError: a checkpoint of a run whose learning rate was planned otherwise.
    """
    optimizers = make_optimizers(model, config)
    progress = _restore(model, optimizers, config, folder)
    progress.decay_start = config.decay_start
    model.train()
    bar = progress_bar("training", "steps", config.steps, initial=progress.step)
    started, cpu_started = time.perf_counter() - progress.seconds, time.process_time() - progress.cpu_seconds
    while progress.step < config.steps:
        batch = data.batch(progress.step).to(model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        value, norm = loss.item(), clip(model, config.max_grad_norm)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise FloatingPointError(
                f"the loss is {value} and the gradient's norm {norm} at step {progress.step}; "
                f"lower learning_rate={config.learning_rate}"
            )
        set_rate(optimizers, config.rate(progress.step))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        progress.losses.append(round(value, 4))
        bar.update()
        bar.set_postfix(loss=f"{value:.2f}", refresh=False)
        last = progress.step == config.steps
        if progress.step % config.eval_every == 0 or last:
            found = measure()
            progress.measurements.append({"step": progress.step, **found})
            announce(_line(progress, config, time.perf_counter() - started, found))
        if progress.step % config.save_every == 0 or last:
            progress.seconds = round(time.perf_counter() - started, 1)
            progress.cpu_seconds = round(time.process_time() - cpu_started, 1)
            _save(model, optimizers, progress, folder)
    bar.close()
    model.eval()
    return progress


def _line(progress: Progress, config: BaseModelConfig, seconds: float, found: dict[str, float]) -> str:
    recent = progress.losses[-config.eval_every :]
    rate = progress.step * config.batch_size * config.block_size / seconds
    return (
        f"step {progress.step}/{config.steps}: loss {sum(recent) / len(recent):.3f}, bits per byte "
        + ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        + f"; {rate:.0f} tokens/s, {(config.steps - progress.step) * seconds / progress.step / 60:.0f} min left"
    )


def _save(model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], progress: Progress, folder: Path) -> None:
    older = _checkpoints(folder)
    target = folder / f"checkpoint-{progress.step}"

    def fill(partial: Path) -> dict[str, Any]:
        save_file(dict(model.named_parameters()), partial / "parameters.safetensors")
        save_file(optimizer_tensors(optimizers), partial / "optimizers.safetensors")
        write_json(partial / "progress.json", asdict(progress))
        return {}

    _entry(target).write(fill)
    for checkpoint in older:
        if checkpoint != target:
            _delete(checkpoint)


def _entry(checkpoint: Path) -> Entry:
    return Entry(checkpoint, checkpoint.name)


def _delete(checkpoint: Path) -> None:
    for file in checkpoint.iterdir():
        file.unlink()
    checkpoint.rmdir()


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _restore(
    model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], config: BaseModelConfig, folder: Path
) -> Progress:
    remove_partials(folder)
    newest = next((path for path in reversed(_checkpoints(folder)) if _entry(path).read() is not None), None)
    if newest is None:
        return Progress()
    progress = Progress(**read_json(newest / "progress.json"))
    if config.decay_start != progress.decay_start and progress.step > min(config.decay_start, progress.decay_start):
        raise ValueError(
            f"steps={config.steps}: {newest} has done {progress.step} steps, past where the learning rate begins to "
            f"fall (step {min(config.decay_start, progress.decay_start)}), so it cannot be continued with another "
            "number of steps; keep the number, or set overwrite=True"
        )
    parameters = load_file(newest / "parameters.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name])
    restore_optimizers(optimizers, load_file(newest / "optimizers.safetensors", device=str(model.device)))
    return progress
