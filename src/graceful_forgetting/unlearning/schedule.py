"""When unlearning updates happen."""

import torch

from graceful_forgetting.config import UnlearnSchedule


def updates_due(schedule: UnlearnSchedule, learning_updates: int, total: int, every: int, seed: int) -> int:
    """How many unlearning updates precede the next learning update.

    - 'periodic', as published: one after every `every` learning updates. The last update of a run is always a learning
      update, since nothing follows it.
    - 'early': as many as 'periodic' would take over the whole run, all before the first learning update.
    - 'random': one with probability 1/`every`, before any but the first learning update, so that their expected number
      is that of 'periodic' up to rounding.
    - 'joint': one with every learning update, whose gradient it joins.

    The result depends on the arguments alone, so that a resumed run follows the schedule without any state. Periodic
    is the paper's choice (Jiang et al., EMNLP 2025, arXiv 2505.19715); early and random are its ablation.

    Args:
        learning_updates: learning updates done so far (`TrainerState.global_step`).
        total: learning updates of the whole run (`TrainerState.max_steps`).
        every: N_u of the paper; 0 turns unlearning off.
        seed: of 'random'; the others do not use it.
    """
    if every == 0:
        return 0
    if schedule == "joint":
        return 1
    if schedule == "early":
        return (total - 1) // every if learning_updates == 0 else 0
    if learning_updates == 0:
        return 0
    if schedule == "random":
        generator = torch.Generator().manual_seed((seed * 998_244_353 + learning_updates) % 2**63)
        return int(torch.rand((), generator=generator).item() < 1 / every)
    return int(learning_updates % every == 0)
