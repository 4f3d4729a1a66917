"""When an unlearning update happens."""


def is_unlearning_step(learning_updates: int, every: int) -> bool:
    """Whether an unlearning update precedes the next learning update.

    The periodic schedule of the paper: one unlearning update after every `every` learning updates. It depends on the
    number of learning updates done and on nothing else, so a resumed run follows it without any state. The last
    update of a run is always a learning update, since nothing follows it.

    Args:
        learning_updates: learning updates done so far (`TrainerState.global_step`).
        every: N_u of the paper; 0 turns unlearning off.
    """
    return every > 0 and learning_updates > 0 and learning_updates % every == 0
