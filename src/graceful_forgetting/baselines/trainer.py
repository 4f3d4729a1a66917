"""Fine-tuning with a baseline's terms in the loss: the part of `LWFTrainer` that knows of baselines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from graceful_forgetting.baselines.baseline import Baseline, LearningBatch
from graceful_forgetting.posterior.reference import PlainTrainer


class BaselineTrainer(PlainTrainer):
    """`PlainTrainer` that adds what its `baseline`, if any, adds to the loss of learning updates.

    The Trainer log has the loss of learning alone as `loss`, and what the baseline adds to it as `baseline_loss` (mean
    over the updates since the last log).
    """

    baseline: Baseline | None = None
    # Of the pass under way, and summed since the last log.
    _term: Tensor | None = None
    _term_sum: Tensor | None = None
    _term_since: int = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As `SFTTrainer.compute_loss`, in training with the terms of the baseline."""
        if self.baseline is None or not self.model.training or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self._watched() as seen:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = seen["outputs"]
        batch = LearningBatch(
            inputs=inputs,
            log_probs=outputs.log_probs,
            mask=outputs.label_mask,
            hidden_states=seen["hidden_states"][:, :-1],
            progress=self.state.global_step / self.state.max_steps,
        )
        term = self._terms(self.baseline, batch, num_items_in_batch)
        return loss if term is None else loss + term

    def _terms(
        self, baseline: Baseline, batch: LearningBatch, num_items_in_batch: Tensor | int | None
    ) -> Tensor | None:
        """What is added to the loss of this pass, scaled as TRL scales that loss."""
        # With the number of tokens of the whole update at hand, TRL's loss of a pass is its share of the update's;
        # else the Trainer divides by the number of passes afterwards.
        passes, known = self.current_gradient_accumulation_steps, num_items_in_batch is not None
        terms = []
        penalty = baseline.penalty(batch)
        if penalty is not None:
            terms.append(penalty / passes if known else penalty)
        weights = baseline.token_weights(batch)
        if weights is not None:
            tokens = num_items_in_batch if known else batch.mask.sum()
            term = ((weights - 1) * -batch.log_probs).sum() / torch.as_tensor(tokens).clamp(min=1)
            if known and self.args.average_tokens_across_devices:
                term = term * self.accelerator.num_processes
            terms.append(term)
        if not terms:
            return None
        total = torch.stack(terms).sum()
        self._term = total.detach() if known else total.detach() / passes
        return total

    def training_step(self, *positional: Any, **keywords: Any) -> Tensor:
        """As `PlainTrainer.training_step`; returns the loss of learning alone."""
        self._term = None
        loss = super().training_step(*positional, **keywords)
        if self._term is None:
            return loss
        if self._term_sum is None:
            self._term_sum, self._term_since = torch.zeros_like(self._term), self.state.global_step
        self._term_sum += self._term
        return loss - self._term

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `SFTTrainer.log`, with `baseline_loss`."""
        if self._term_sum is not None and "loss" in logs:
            total = self.accelerator.gather(self._term_sum).mean().item()
            logs["baseline_loss"] = total / (self.state.global_step - self._term_since)
            self._term_sum = None
        super().log(logs, start_time)

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Any]]:
        """Inside the block, what the model's forward pass gives: `outputs`, and the backbone's `hidden_states`."""
        seen: dict[str, Any] = {}

        def keep_outputs(_: nn.Module, __: Any, outputs: Any) -> None:
            seen["outputs"] = outputs

        def keep_hidden_states(_: nn.Module, __: Any, outputs: Any) -> None:
            seen["hidden_states"] = outputs.last_hidden_state

        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        handles = [
            self.model.register_forward_hook(keep_outputs),
            model.base_model.register_forward_hook(keep_hidden_states),
        ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()
