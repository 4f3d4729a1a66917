"""What to do next where a run leaves its question open: nothing was measured, or nothing was unlearned."""

from graceful_forgetting.config.selection import DEFAULT_THRESHOLDS
from graceful_forgetting.results.arms import OWN
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.results.text import number


def next_steps(result: RunResult) -> list[str]:
    """A sentence or two for each such case, with what to change; none where the run answers its question."""
    steps = []
    if not any(task.role == "learning" for task in result.summary.tasks.values()):
        steps.append(
            "Nothing was evaluated on what is learned: learning_task has no test rows with answers. Give it a folder "
            "with train.jsonl and test.jsonl. What is trained on the same rows is kept."
        )
    own = [run for run in result.runs if run.arm == OWN]
    # A baseline may read the selection and unlearn nothing, as it was asked.
    if result.selection is None or result.config.get("unlearn_every") == 0:
        return steps
    if result.selection.chosen == 0:
        steps.append(_nothing_chosen(result))
    elif own and not any(run.unlearn_updates for run in own):
        every, steps_run = result.config.get("unlearn_every"), max((run.training_log[-1:] for run in own), key=len)
        last = f", and training ended at update {steps_run[0].step}" if steps_run else ""
        steps.append(
            f"Nothing was unlearned: no unlearning update was made. unlearn_every is {every}{last}. Set unlearn_every "
            "lower, or train longer."
        )
    return steps


def _nothing_chosen(result: RunResult) -> str:
    selection, scorer = result.selection, str(result.config.get("confidence_scorer", "score"))
    assert selection is not None
    threshold = result.config.get("forget_threshold") or DEFAULT_THRESHOLDS.get(scorer)
    limit = "" if threshold is None else f" of {number(threshold)}"
    return (
        f"Nothing was unlearned: none of the {number(selection.scored)} answers reaches the threshold{limit} of "
        f"{scorer}, so that the model is plain fine-tuning. Either nothing gets in the way, and plain fine-tuning is "
        "right; or other forgetting prompts are needed. To unlearn the highest scores whatever they are, set "
        "forget_fraction (0.1, for example)."
    )
