"""What a run refuses before any work: data, models and arguments of the trainer that the settings do not go with.

Topologies are in `topology`, settings on their own in `config`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from jinja2 import TemplateError
from peft import PeftModel
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from graceful_forgetting.baselines import BASELINES
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.confidence.scorer import Need as ScorerNeed
from graceful_forgetting.confidence.scorers import scorer_named
from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.data.encoding import encode_prompts, encode_rows, row_parts
from graceful_forgetting.data.learning_rows import check_single_examples
from graceful_forgetting.training.columns import check_columns, check_forget_dataset
from graceful_forgetting.training.model_checks import check_generation_config, check_vocabulary
from graceful_forgetting.training.preparation import SCORE_COLUMN, Preparation
from graceful_forgetting.unlearning.objectives import Need, objective_of


def baseline_needs(args: LWFConfig) -> frozenset[BaselineNeed]:
    """What the baseline of these settings needs, if there is one."""
    return frozenset() if args.baseline is None else BASELINES[args.baseline].needs


def unlearns(args: LWFConfig, forget_dataset: Dataset | None, preparation: Preparation | None) -> bool:
    """Whether a run with these data unlearns at all."""
    return (forget_dataset is not None or preparation is not None) and args.unlearn_every > 0


def is_scored(forget_dataset: Dataset | None) -> bool:
    """Whether there is nothing to score: the samples come with scores, or a preparation stands in for them."""
    return forget_dataset is None or SCORE_COLUMN in forget_dataset.column_names


def check_forgetting(args: LWFConfig, forget_dataset: Dataset | None, preparation: Preparation | None) -> None:
    """Refuse, before a model is loaded, what cannot be forgotten in the way that the settings say.

    Args:
        args: settings of the run.
        forget_dataset: as `combine_forget_datasets` gives it.
        preparation: in its place.

    Raises:
        ValueError: names the argument and the remedy.
    """
    needs_self_knowledge = BaselineNeed.SELF_KNOWLEDGE in baseline_needs(args)
    if needs_self_knowledge and forget_dataset is None and preparation is None:
        raise ValueError(
            f"baseline={args.baseline!r} needs the base model's self-knowledge: pass forget_dataset (with "
            "unlearn_every=0 nothing of it is unlearned)"
        )
    if forget_dataset is not None and (args.unlearn_every > 0 or needs_self_knowledge):
        check_forget_dataset(forget_dataset, args)


def check_data(
    args: LWFConfig,
    *,
    train_dataset: Dataset | IterableDataset,
    eval_dataset: Dataset | IterableDataset | Mapping[str, Any] | None,
    forget_dataset: Dataset | None,
    preparation: Preparation | None,
    formatted: bool = False,
) -> None:
    """Refuse data that a run with unlearning or a baseline cannot be made from.

    Args:
        args: settings of the run.
        train_dataset: learning rows, prepared or not.
        eval_dataset: held-out learning rows.
        forget_dataset, preparation: as in `check_forgetting`.
        formatted: whether a `formatting_func` makes the text of learning rows, whatever their columns are.

    Raises:
        ValueError: names the argument or the setting, and the remedy.
    """
    check_columns(args, train_dataset, eval_dataset, forget_dataset, formatted)
    unlearning, scored = unlearns(args, forget_dataset, preparation), is_scored(forget_dataset)
    needs = scorer_named(args.confidence_scorer).needs
    objective = objective_of(args)
    scorer_reads = bool(needs & {ScorerNeed.POSTERIOR, ScorerNeed.LEARNING})
    check_single_examples(
        train_dataset,
        args,
        all_are_read=args.baseline is not None or (unlearning and Need.LEARNING in objective.needs),
        some_are_read=scorer_reads and not scored,
    )
    # A preparation has what trials chose already.
    judge: str | None = None
    if args.forget_trials != "none" and unlearning and preparation is None:
        judge, remedy = f"forget_trials={args.forget_trials!r}", "set forget_trials='none'"
    elif BaselineNeed.HELD_OUT in baseline_needs(args):
        judge, remedy = f"baseline={args.baseline!r}", "choose another baseline"
    if judge is not None and eval_dataset is None:
        raise ValueError(
            f"{judge} needs held-out learning rows to judge by: pass eval_dataset (in a recipe, leave training rows "
            "over: learning_limit below their number, with validation_limit above 0, and split 'test' of "
            f"world_options), or {remedy}"
        )


def check_prompts(
    args: LWFConfig,
    data_sets: Mapping[str, Dataset | IterableDataset | Mapping[str, Any] | None],
    processing_class: PreTrainedTokenizerBase,
    chat_template: str | None,
) -> None:
    """Refuse prepared rows whose answers are not trained from where they would be generated.

    Rows without text beside their tokens (packed, streamed, tokenised by the caller) cannot be told and pass.

    Args:
        args: settings of the run.
        data_sets: rows that `SFTTrainer` has prepared, by argument; one argument may hold several by name.
        processing_class: of the trainer.
        chat_template: in place of the tokenizer's own.

    Raises:
        ValueError: names the argument, the row and the remedy.
    """
    for argument, rows in data_sets.items():
        if isinstance(rows, Mapping):
            named = {f"{argument}[{name!r}]": part for name, part in rows.items()}
            check_prompts(args, named, processing_class, chat_template)
        # What is cut at the beginning does not begin with its prompt.
        elif isinstance(rows, Dataset) and args.truncation_mode != "keep_end":
            _check_prompts(argument, rows, processing_class, chat_template, args.assistant_only_loss)


def _check_prompts(
    argument: str,
    rows: Dataset,
    processing_class: PreTrainedTokenizerBase,
    chat_template: str | None,
    assistant_only: bool,
) -> None:
    if not {"prompt", "completion", "input_ids"} <= set(rows.column_names):
        return
    for start, part in row_parts(rows, f"checking the prompts of {argument}"):
        prompts = encode_prompts(part, processing_class, chat_template)
        for index, (row, prompt) in enumerate(zip(part, prompts, strict=True), start=start):
            length = min(len(prompt), len(row["input_ids"]))
            several = not isinstance(row["completion"], str) and len(row["completion"]) > 1
            if several or row["input_ids"][:length] != prompt[:length]:
                keywords: Any = {"assistant_only": assistant_only, "chat_template": chat_template}
                misfit = encode_rows([row], "prompt", processing_class, **keywords)[0].misfit
                if misfit is not None:
                    raise ValueError(f"{argument}: row {index} cannot be learned: {misfit}")


def template_failure(
    error: TemplateError,
    data_sets: Mapping[str, Any],
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None,
) -> ValueError:
    """What to raise where TRL's preparation ended in `error` of the chat template: it names argument and row."""
    for argument, rows in data_sets.items():
        if isinstance(rows, Dataset) and isinstance(processing_class, PreTrainedTokenizerBase):
            try:
                tokenize_dataset(rows, processing_class, argument=argument)
            except ValueError as named:
                return named
    return ValueError(
        f"the chat template fails on a row of {' or '.join(data_sets)}: {error}; correct the row, or give another "
        "template (chat_template_path)"
    )


def check_model(
    args: LWFConfig,
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
) -> None:
    """Refuse models that unlearning, or the baseline, does not work on.

    Args:
        args: settings of the run.
        model: of the trainer, with its adapter.
        processing_class: of the trainer.

    Raises:
        ValueError: names the argument and the remedy.
    """
    if BaselineNeed.FULL_MODEL in baseline_needs(args) and isinstance(model, PeftModel):
        raise ValueError(
            f"baseline={args.baseline!r} changes all weights of the model, and an adapter is trained: train the "
            "model itself"
        )
    if isinstance(processing_class, ProcessorMixin):
        raise ValueError(
            f"processing_class is a {type(processing_class).__name__}: unlearning and baselines are for text "
            "alone. Pass its `.tokenizer`, with rows of text"
        )
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"peft_config adds virtual tokens ({model.active_peft_config.peft_type.value}), which shift the "
            "logits against the labels: use LoRA or train the model itself"
        )
    check_vocabulary("model", model, processing_class)
    check_generation_config("model", model)


def check_own_parts(
    args: LWFConfig,
    compute_loss_func: Callable[..., Any] | None,
    optimizer: Optimizer | None,
    forget_dataset: Dataset | None,
    preparation: Preparation | None,
) -> None:
    """Refuse a loss or an optimizer of the caller's own where a baseline or another run cannot share it.

    Args:
        args: settings of the run.
        compute_loss_func, optimizer: of the trainer; none: its own.
        forget_dataset, preparation: as in `check_forgetting`.

    Raises:
        ValueError: names what cannot share it, and the remedy.
    """
    if args.baseline is not None and compute_loss_func is not None:
        raise ValueError(
            f"compute_loss_func cannot be used with baseline={args.baseline!r}, which adds to the loss of TRL"
        )
    if optimizer is None:
        return
    unlearning = unlearns(args, forget_dataset, preparation)
    scorer_has_reference = not is_scored(forget_dataset) and (
        ScorerNeed.POSTERIOR in scorer_named(args.confidence_scorer).needs
    )
    if BaselineNeed.POSTERIOR in baseline_needs(args) or (unlearning and scorer_has_reference):
        raise ValueError(
            "optimizers holds an optimizer of this model's parameters, which the reference run cannot share: pass "
            "optimizer_cls_and_kwargs, which both runs make theirs from, or a forget_dataset that is already "
            f"scored (column {SCORE_COLUMN})"
        )
    if args.forget_trials != "none" and unlearning and preparation is None:
        raise ValueError(
            "optimizers holds an optimizer of this model's parameters, which trial runs cannot share: pass "
            "optimizer_cls_and_kwargs, which all runs make theirs from, or set forget_trials='none'"
        )
