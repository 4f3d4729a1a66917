"""What a recipe asks for that a run cannot do, said before any long work."""

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.tasks import require_metric
from graceful_forgetting.training.topology import check_topology, requested_topology


def check_recipe(lwf: LWFConfig) -> None:
    """Check the settings of training on their own.

    Raises:
        ValueError: names the setting, its value and the remedy.
    """
    if lwf.packing and lwf.packing_strategy == "wrapped":
        raise ValueError(
            "packing_strategy='wrapped' cannot be used with `graceful run`: it cuts across learning examples, and "
            "the Fisher information is a mean over single ones. Use packing_strategy='bfd'"
        )
    if lwf.completion_only_loss is False:
        raise ValueError(
            "completion_only_loss=False cannot be used with `graceful run`, which learns and measures completions: "
            "leave it unset, or write a script with LWFTrainer"
        )
    if lwf.unlearn_every == 0 and lwf.baseline is None:
        raise ValueError(
            "unlearn_every=0 turns unlearning off, which leaves nothing to compare with: set it above 0, or name a "
            "baseline"
        )
    check_topology(lwf, *requested_topology(lwf))


def check_inputs(run: RunArguments, lwf: LWFConfig, inputs: RunInputs, holds_out: bool) -> None:
    """Check the settings against the data.

    Args:
        holds_out: whether there are held-out learning rows to judge by.

    Raises:
        ValueError: names the setting, its value and the remedy.
    """
    for _, _, task in inputs.test_sets.values():
        if task is not None and run.generates:
            require_metric(task)
    if lwf.forget_trials != "none" and not holds_out:
        raise ValueError(
            f"forget_trials={lwf.forget_trials!r} needs held-out learning rows to judge trial runs by, and this run "
            "has none: leave training rows over (learning_limit below their number, with validation_limit above 0), "
            "keep split 'test' of world_options, or set forget_trials='none'"
        )
    if lwf.forget_answers == "given":
        _ = inputs.forgetting_answers  # refuses data without answers
