"""The optimizers of a base model, and their state as plain tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel

from graceful_forgetting.lab.base_model.config import BaseModelConfig


def make_optimizers(model: PreTrainedModel, config: BaseModelConfig) -> list[Optimizer]:
    """One optimizer, or two with Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), which is for
    the matrices of the hidden layers only.

    Muon's update is scaled to the size of AdamW's (Liu et al., arXiv 2502.16982): one learning rate serves both.
    """
    hidden, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif config.optimizer == "muon" and name.startswith("model.layers."):
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))]
    if hidden:
        optimizers.append(
            Muon(hidden, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The state of all optimizers, by `<optimizer>.<parameter>.<name>`."""
    return {
        f"{number}.{parameter}.{name}": value
        for number, optimizer in enumerate(optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizers(optimizers: Sequence[Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == number:
                states.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def set_rate(optimizers: Sequence[Optimizer], rate: float) -> None:
    """Set the learning rate of all."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def clip(model: PreTrainedModel, max_norm: float) -> float:
    """Scale the gradients to a norm of at most `max_norm`; returns the norm before."""
    norm: Tensor = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return norm.item()
