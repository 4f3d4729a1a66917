"""Ascent on self-knowledge together with descent on the learning task."""

from torch import Tensor

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch, all_active


class GradientDifference:
    """−L(x) + L(y), y a learning row: both in one update, with one optimizer and one clipping.

    Source: Liu, Liu, Stone, *Continual Learning and Private Unlearning*, CoLLAs 2022, arXiv 2203.12817; named so by
    Maini et al., *TOFU*, arXiv 2401.06121, with a retain set in place of learning rows.

    Relations: `GradientAscent` leaves learning to the updates in between. As unbounded as that.
    """

    needs = frozenset({Need.LEARNING})

    def values(self, batch: UnlearningBatch) -> Tensor:
        assert batch.learning_losses is not None
        return batch.learning_losses - batch.losses

    def active(self, batch: UnlearningBatch) -> Tensor:
        return all_active(batch)
