"""One unlearning update: its passes, its gradient, its step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from graceful_forgetting.config.unlearning import UNLEARN_MAX_GRAD_NORM
from graceful_forgetting.data import IGNORE_INDEX, collate
from graceful_forgetting.gradients.options import log_shares, with_other_options
from graceful_forgetting.gradients.token_loss import token_nll
from graceful_forgetting.posterior.divergence import NonFiniteLossError
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.distributed import whole
from graceful_forgetting.runtime.internals import forward_context, learning_rate, prepared_inputs
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.unlearning.objectives import Need, UnlearningBatch
from graceful_forgetting.unlearning.schedule import updates_due
from graceful_forgetting.unlearning.updates import MicroBatch, UnlearningUpdates


def unlearn_if_due(trainer: SFTTrainer, updates: UnlearningUpdates) -> None:
    """The unlearning updates that the schedule has before the next learning update of `trainer`.

    They do not count in `max_steps` or the learning-rate schedule, and consume no random numbers of the run. Gradients
    must be empty.

    Raises:
        NonFiniteLossError: names the update.
    """
    args, step = updates.args, trainer.state.global_step
    if len(updates.samples) == 0:
        return
    due = updates_due(args.unlearn_schedule, step, trainer.state.max_steps, args.unlearn_every, args.seed)
    for _ in range(due):
        with preserved_rng(seed=args.seed + updates.count):
            unlearn(trainer, updates)


def unlearn(trainer: SFTTrainer, updates: UnlearningUpdates) -> None:
    """One unlearning update.

    With schedule 'joint' its gradient alone, left for the learning update to add to, which clips their sum.
    """
    args, model = updates.args, trainer.model_wrapped
    joint = args.unlearn_schedule == "joint"
    model.train()
    micro_batches = updates.next_micro_batches(args.process_index, args.world_size)
    rows = sum(len(batch.forget) for batch in micro_batches)
    scale = (args.unlearn_weight if joint else 1.0) / rows
    loss_sum = active_sum = 0.0
    for number, micro in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        with trainer.accelerator.no_sync(model) if not last else torch.enable_grad():
            batch, retained_losses = unlearning_batch(trainer, micro, updates.objective.needs)
            weights = micro.weights.to(batch.log_probs.device)
            total = (weights * updates.objective.values(batch)).sum()
            total = total + args.unlearn_retain_weight * retained_losses.sum()
            trainer.accelerator.backward(scale * total)
        loss_sum += _mean_over_processes(trainer, batch.losses.detach().sum())
        active_sum += _mean_over_processes(trainer, updates.objective.active(batch).float().sum())
    _require_finite("loss", loss_sum, trainer, updates)
    grad_norm = 0.0
    # What is capped has no gradient; in a joint update what is retained still has one.
    if joint or active_sum > 0:
        max_norm = math.inf if joint else UNLEARN_MAX_GRAD_NORM
        grad_norm = whole(torch.nn.utils.clip_grad_norm_(updates.parameters, max_norm)).item()
        _require_finite("gradient norm", grad_norm, trainer, updates)
        if not joint:
            _step(trainer, updates, active_sum / rows)
    if not joint:
        model.zero_grad()
    updates.count += 1
    updates.log.add(loss_sum / rows, active_sum / rows, grad_norm)


def unlearning_batch(trainer: SFTTrainer, micro: MicroBatch, needs: frozenset[Need]) -> tuple[UnlearningBatch, Tensor]:
    """What the objective reads, and L of the retained rows, (retained,), from one forward pass of all rows.

    One pass, since DDP expects one before each backward pass.
    """
    model: nn.Module = trainer.model_wrapped
    own = [*micro.forget, *micro.learning, *micro.retained]
    rows, places = with_other_options(own)
    inputs = prepared_inputs(trainer, collate(rows, trainer.processing_class.pad_token_id))
    number, logits = len(micro.forget), None
    with forward_context(trainer):
        if Need.LOGITS in needs:
            targets = inputs.pop("labels")[:, 1:]
            logits = model(**inputs, use_cache=False).logits[:, :-1]
            log_probs, mask = -token_nll(logits, targets), targets != IGNORE_INDEX
            logits = logits[:number]
        else:
            log_probs, mask = internals.token_log_probs(model, inputs)
    if places:
        log_probs, mask = _chosen_as_one_token(log_probs, mask, places)
    losses = -log_probs.sum(dim=1) / mask.sum(dim=1)
    base_losses = None if micro.base_losses is None else micro.base_losses.to(losses.device)
    learning_losses = losses[number : number + len(micro.learning)] if micro.learning else None
    batch = UnlearningBatch(log_probs[:number], mask[:number], logits, base_losses, learning_losses)
    return batch, losses[number + len(micro.learning) :]


def _chosen_as_one_token(log_probs: Tensor, mask: Tensor, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of the rows alone: where one was chosen among options, its share of their probability in place of its tokens.

    `log_probs`, `mask` are of the rows and of their other options; `places`: see `with_other_options`.
    """
    shares, chosen = log_shares(log_probs.sum(dim=1), places)
    number = len(shares)
    own, counted = log_probs[:number], mask[:number]
    first = counted & (counted.cumsum(dim=1) == 1)
    counted = torch.where(chosen.unsqueeze(1), first, counted)
    return torch.where(chosen.unsqueeze(1), first * shares.unsqueeze(1), own), counted


def _step(trainer: SFTTrainer, updates: UnlearningUpdates, active: float) -> None:
    """A step of the unlearning optimizer, shorter by the share of the samples that is active."""
    args, scale = updates.args, active
    # Before the first learning update nothing has decayed yet, and a warm-up would leave a rate of 0.
    if args.unlearn_schedule != "early":
        # The rate of an optimizer that the caller has made need not be that of the settings.
        peak = trainer.optimizer.param_groups[0].get("initial_lr", args.learning_rate)
        scale *= learning_rate(trainer) / peak
    for group in updates.optimizer.param_groups:
        group["lr"] = updates.peak_learning_rate * scale
    updates.optimizer.step()


def _require_finite(what: str, value: float, trainer: SFTTrainer, updates: UnlearningUpdates) -> None:
    if not math.isfinite(value):
        trainer.model_wrapped.zero_grad()
        strength = f"unlearn_learning_rate ({updates.peak_learning_rate:g})"
        if updates.args.unlearn_schedule == "joint":
            strength = f"unlearn_weight ({updates.args.unlearn_weight:g})"
        raise NonFiniteLossError(
            f"the unlearning {what} is {value} before learning update {trainer.state.global_step + 1} (unlearning "
            f"update {updates.count + 1}); checkpoints saved so far are intact. Lower {strength}, or use "
            "unlearn_objective='bounded_tokens'"
        )


def _mean_over_processes(trainer: SFTTrainer, value: Tensor) -> float:
    return trainer.accelerator.gather(value).mean().item()
