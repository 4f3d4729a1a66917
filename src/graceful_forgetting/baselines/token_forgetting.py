"""Forgetting at the level of tokens, inside the learning set."""

import hashlib
from collections.abc import Sequence

import numpy
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, LearningBatch, Need
from graceful_forgetting.confidence.losses import exchanged, in_place_of
from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.gradients.rows import load_batch
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, token_losses
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.batches import BatchLimit


class TokenForgetting(Baseline):
    """Mean loss of positive tokens minus λ(t) times that of negative ones.

    A token's score is its loss under θ_base minus that under a reference; the share ρ (option `positive_share`) of
    highest score over the whole learning set is positive. λ(t) rises linearly with the share of the run that is done,
    from 0 to `baseline_weight`. Both means are taken over the learning set: a token's weight is N/N⁺ or −λ(t) N/N⁻ of N
    tokens, so that micro-batches do not matter.

    Source: *Forgetting: A New Mechanism Towards Better Large Language Model Fine-tuning*, arXiv 2508.04329; ρ = 0.7 and
    λ = 0.25 are the authors'. Their reference is a model tuned on 10,000 other examples; here it is θ*_L.

    Raises:
        ValueError: on construction, if all tokens have the same sign.
    """

    needs = frozenset({Need.POSTERIOR})

    def __init__(self, context: BaselineContext) -> None:
        assert context.posterior is not None
        self.weight = context.args.baseline_strength
        batch_size = context.args.confidence_batch_size
        rows = context.learning.select_columns(["input_ids", "labels"])
        base = row_token_losses(context.model, rows, batch_size)
        with exchanged(context.model, in_place_of(context.model, context.posterior.mean)):
            reference = row_token_losses(context.model, rows, batch_size)
        scores = torch.cat([b - r for b, r in zip(base, reference, strict=True)])
        share = context.args.baseline_option("positive_share")
        count = round(share * len(scores))
        if not 0 < count < len(scores):
            raise ValueError(
                f"baseline_options: positive_share={share} makes {count} of {len(scores)} tokens "
                "positive: choose a share that leaves tokens of both kinds"
            )
        positive = torch.zeros(len(scores), dtype=torch.bool)
        # Stable, so that equal scores are split in the order of their rows.
        positive[scores.sort(descending=True, stable=True).indices[:count]] = True
        self._scale = len(scores) / count, len(scores) / (len(scores) - count)
        parts = positive.split([len(part) for part in base])
        self._positive = {_key(row["input_ids"], row["labels"]): part for row, part in zip(rows, parts, strict=True)}

    def token_weights(self, batch: LearningBatch) -> Tensor:
        weights = torch.zeros_like(batch.log_probs)
        ids, labels, attended = (batch.inputs[name].tolist() for name in ("input_ids", "labels", "attention_mask"))
        for row, counted in enumerate(batch.mask):
            kept = [position for position, seen in enumerate(attended[row]) if seen]
            key = _key([ids[row][position] for position in kept], [labels[row][position] for position in kept])
            positive = self._positive[key].to(weights.device)
            weights[row, counted] = torch.where(
                positive, self._scale[0], -self.weight * batch.progress * self._scale[1]
            ).to(weights)
        return weights


def row_token_losses(model: PreTrainedModel, rows: Dataset, batch_size: int) -> list[Tensor]:
    """−log p of every counted token of each row, (tokens,) float32 on the CPU; the model is left as it was.

    Args:
        rows: tokenised (`input_ids`, `labels`).
        batch_size: rows per forward pass.
    """

    def losses_of(indices: Sequence[int]) -> tuple[Tensor, ...]:
        batch = load_batch(rows, indices, model.device)
        positions, targets = counted_targets(batch)
        losses = token_losses(counted_logits(model, batch, positions), targets)
        return losses.cpu().split((targets != IGNORE_INDEX).sum(dim=1).tolist())

    with differentiating(model, ()), torch.no_grad():
        parts = BatchLimit("token_forgetting", batch_size).in_parts(range(len(rows)), losses_of)
    return [losses for part in parts for losses in part]


def _key(ids: Sequence[int], labels: Sequence[int]) -> bytes:
    content = numpy.asarray([ids, labels], dtype=numpy.int64)
    return hashlib.blake2b(content.tobytes(), digest_size=16).digest()
