"""Selective Amnesia's objective, adapted to language models."""

from graceful_forgetting.baselines.ewc import EWC


class SelectiveAmnesia(EWC):
    """L(learning) + v [KL(U ‖ p) on what is forgotten + w L on what is retained] + λ/2 Σ F (θ − θ_base)².

    The source minimises, for a concept to forget, the loss of samples of a surrogate distribution in place of the
    concept's, the loss of replayed samples of everything else, and EWC's penalty with the Fisher information of the
    model's own samples. Here the surrogate is uniform over tokens (`unlearn_objective='uniform'`), replay is that of
    retained self-knowledge (w = `unlearn_retain_weight`), all terms are in one update (`unlearn_schedule='joint'`, v =
    `unlearn_weight`), and the loss of the learning task is added, since the aim is to learn. `LWFConfig` refuses other
    settings.

    Source: Heng & Soh, *Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models*,
    NeurIPS 2023, arXiv 2305.10120, equation 6. λ as in `EWC`.
    """
