"""Gives back plain fine-tuning where forgetting did not help."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from trl import SFTTrainer

from graceful_forgetting.runtime.distributed import from_main_process, resharded, sharded_like
from graceful_forgetting.runtime.internals import forget_evaluation
from graceful_forgetting.runtime.progress import close_evaluation_bars

logger = logging.getLogger(__name__)

SAME_ROWS = (
    "The same rows chose between the two and report the loss, so that it is too good to expect elsewhere: measure on "
    "other rows"
)


@dataclass(frozen=True)
class HeldOutComparison:
    """Losses on held-out learning rows, in nats per token.

    Attributes:
        loss: of the model as it was trained.
        plain_loss: of the same model with the weights of plain fine-tuning.
    """

    loss: float
    plain_loss: float

    @property
    def falls_back(self) -> bool:
        """Whether plain fine-tuning is the better one; so it is where the loss of the trained model is not a number."""
        return not self.loss <= self.plain_loss


def keep_better(model: nn.Module, plain: Mapping[str, Tensor], held_out_loss: Callable[[], float]) -> HeldOutComparison:
    """Compare the model with plain fine-tuning, and leave in it the weights that have the lower held-out loss.

    Warns where those are the weights of plain fine-tuning.

    Args:
        model: as it was trained; sharded by FSDP2 or not.
        plain: its trainable weights after plain fine-tuning with the same settings, by name, whole.
        held_out_loss: measures the model as it is when called; on every process, where there are several.
    """
    loss = held_out_loss()
    # Copied, not exchanged: FSDP2 and compiled code hold on to the memory of the parameters.
    own = {name: parameter.detach().clone() for name, parameter in _trained(model, plain)}
    _copy(plain, model)
    comparison: HeldOutComparison | None = None
    try:
        # All processes have to end with the same weights, whatever the last digits of their own losses.
        comparison = from_main_process(HeldOutComparison(loss, held_out_loss()))
    finally:
        if comparison is None or not comparison.falls_back:
            _copy(own, model)
    if comparison.falls_back:
        logger.warning(
            f"Forgetting did not help: held-out loss {comparison.loss:.4f} nats per token, that of plain fine-tuning "
            f"{comparison.plain_loss:.4f}. The model has the weights of plain fine-tuning (guard_fallback). {SAME_ROWS}"
        )
    return comparison


def held_out_loss(trainer: SFTTrainer) -> float:
    """Loss on `eval_dataset`, the mean over its sets, in nats per token; nothing is logged, no callback called."""
    names = list(trainer.eval_dataset) if isinstance(trainer.eval_dataset, dict) else [None]
    losses = [
        trainer.evaluation_loop(
            trainer.get_eval_dataloader(name), "Held-out loss", prediction_loss_only=True, metric_key_prefix="held_out"
        ).metrics["held_out_loss"]
        for name in names
    ]
    forget_evaluation(trainer)
    close_evaluation_bars(trainer)
    return float(sum(losses) / len(losses))


def _trained(model: nn.Module, plain: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in resharded(model).named_parameters() if name in plain)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], model: nn.Module) -> None:
    for name, parameter in _trained(model, values):
        value = values[name].to(parameter.device)
        parameter.copy_(value if isinstance(value, DTensor) else sharded_like(value, parameter))
