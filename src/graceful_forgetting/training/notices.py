"""What a user is told beside the stages: what a run will cost, and which settings defeat it."""

import math

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.unlearning.schedule import updates_due


def cost_ahead(args: LWFConfig, method: str, reference: bool, plain: bool) -> str:
    """The training runs that are ahead, in one line.

    Args:
        args: settings of the run.
        method: its title.
        reference: whether there is a reference run.
        plain: whether the result is compared with plain fine-tuning on `eval_dataset`.
    """
    share = args.reference_share if reference else 0.0
    runs = []
    if reference and not (plain and share == 1):
        runs.append((share, f"reference run {share:g}"))
    if plain:
        runs.append((1.0, "plain fine-tuning 1, to compare with on eval_dataset"))
    runs.append((1.0, f"{method} 1"))
    trials = "" if args.forget_trials == "none" else " and one for each trial"
    remedy = "; guard_fallback=False saves the comparison" if plain and share < 1 else ""
    parts, together = ", ".join(text for _, text in runs), sum(cost for cost, _ in runs)
    return f"Training runs ahead: {together:g}{trials} ({parts}){remedy}"


def learning_updates(args: LWFConfig, rows: int | None) -> int | None:
    """Learning updates of a run on so many rows (packed ones count once); None where that is not known."""
    if args.max_steps > 0:
        return args.max_steps
    if rows is None:
        return None
    in_a_pass = args.train_batch_size * args.world_size
    passes = rows // in_a_pass if args.dataloader_drop_last else math.ceil(rows / in_a_pass)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(passes / args.gradient_accumulation_steps)))


def self_defeating(args: LWFConfig, learning_rows: int | None, forgetting_rows: int) -> list[str]:
    """A sentence for each setting with which a run that unlearns cannot do so.

    Args:
        args: settings of the run.
        learning_rows: rows that are trained on; none where their number is not known.
        forgetting_rows: prompts or answers that may be forgotten.
    """
    found = []
    updates = learning_updates(args, learning_rows)
    if updates is not None and not any(
        updates_due(args.unlearn_schedule, step, updates, args.unlearn_every, args.seed) for step in range(updates)
    ):
        remedy = f"set unlearn_every to at most {updates - 1}" if updates > 1 else "train for more than one update"
        found.append(
            f"unlearn_every={args.unlearn_every} with {updates} learning updates: no unlearning update would happen, "
            f"since the last one of a run is of learning; {remedy}"
        )
    if forgetting_rows * args.elicitation_num_samples_per_prompt == 1:
        found.append(
            "There is one sample that may be forgotten: nothing tells whether its score is high, and nothing is left "
            "to retain; give more prompts"
        )
    return found
