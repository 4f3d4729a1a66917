"""What a baseline adds to the loss of learning, pass by pass."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from graceful_forgetting.baselines.baseline import Baseline, LearningBatch
from graceful_forgetting.runtime.internals import ForwardPass, LossScale


class AddedLoss:
    """The terms of one baseline during one training run.

    A trainer adds `of_pass` to the loss of a pass, takes it off again by `without`, so that the loss that it logs is
    that of learning alone, and logs `drain`.
    """

    def __init__(self, baseline: Baseline):
        self._baseline = baseline
        # Of the pass under way, and summed since the last log.
        self._term: Tensor | None = None
        self._sum: Tensor | None = None
        self._since = 0

    def of_pass(
        self, seen: ForwardPass, inputs: Mapping[str, Tensor], progress: float, scale: LossScale
    ) -> Tensor | None:
        """What is added to the loss of this pass, (), scaled as that loss is; none where there is nothing.

        Args:
            seen: the forward pass that the loss is from.
            inputs: of it, (batch, length).
            progress: share of the learning updates that are done, in [0, 1).
            scale: of the loss.
        """
        assert seen.log_probs is not None
        assert seen.mask is not None
        assert seen.hidden_states is not None
        batch = LearningBatch(inputs, seen.log_probs, seen.mask, seen.hidden_states[:, :-1], progress)
        known = scale.tokens is not None
        terms = []
        penalty = self._baseline.penalty(batch)
        if penalty is not None:
            terms.append(penalty / scale.passes if known else penalty)
        weights = self._baseline.token_weights(batch)
        if weights is not None:
            tokens = scale.tokens if known else batch.mask.sum()
            term = ((weights - 1) * -batch.log_probs).sum() / torch.as_tensor(tokens).clamp(min=1)
            terms.append(term * scale.factor)
        if not terms:
            return None
        total = torch.stack(terms).sum()
        self._term = total.detach() if known else total.detach() / scale.passes
        return total

    def without(self, loss: Tensor, step: int) -> Tensor:
        """The loss of the pass, (), less what was added to it; `step`: learning updates done."""
        term, self._term = self._term, None
        if term is None:
            return loss
        if self._sum is None:
            self._sum, self._since = torch.zeros_like(term), step
        self._sum += term
        return loss - term

    def drain(self, step: int, accelerator: Accelerator) -> dict[str, float]:
        """`baseline_loss`, the mean over the updates since the last call; empty where nothing was added."""
        if self._sum is None:
            return {}
        total, self._sum = accelerator.gather(self._sum).mean().item(), None
        return {"baseline_loss": total / (step - self._since)}
