"""What the inputs of a run already show, said before a model is loaded: lengths, and names of parts of the model."""

import copy
import logging
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from accelerate.utils import GradientAccumulationPlugin
from peft import get_peft_model
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_pt_utils import AcceleratorConfig

from graceful_forgetting.config import LWFConfig, PosteriorConfig
from graceful_forgetting.config.fields import mapping_of
from graceful_forgetting.config.flat import flat_names
from graceful_forgetting.data import context_length, encode_prompts, tokenize_dataset
from graceful_forgetting.data.encoding import RefusedRowError, encoded_in_parts
from graceful_forgetting.evaluation.rows import EvaluationRows, check_references
from graceful_forgetting.gradients.parameters import matching_names, unrestricted_names
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runs.method_rows import RunRows
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runs.sources import row_names
from graceful_forgetting.runtime.collection import without_collection
from graceful_forgetting.tasks import require_metric
from graceful_forgetting.training.checks import check_data, check_forgetting
from graceful_forgetting.training.model_checks import check_generation_config, check_vocabulary
from graceful_forgetting.training.notices import self_defeating
from graceful_forgetting.training.preparation import needs_elicitation

logger = logging.getLogger(__name__)


@without_collection()
def check_inputs(run: RunArguments, lwf: LWFConfig, model: ModelArguments, inputs: RunInputs) -> None:
    """Refuse, before any work, data and models that the settings cannot be run on, as `LWFTrainer` does.

    Raises:
        ValueError: names the setting or the task, and the remedy.
        ImportError: a task's metric needs a package that is not installed.
    """
    if lwf.unlearn_every == 0 and lwf.baseline is None:
        raise ValueError(
            "unlearn_every=0 turns unlearning off, which leaves nothing to compare with: set it above 0, or name a "
            "baseline"
        )
    for _, _, task in inputs.test_sets.values():
        if task is not None and run.generates:
            require_metric(task)
    rows = RunRows(inputs, lwf).forgetting
    check_forgetting(lwf, rows, None)
    check_data(
        lwf,
        train_dataset=inputs.sources.learning_train,
        eval_dataset=inputs.sources.learning_validation if holds_out(run, inputs) else None,
        forget_dataset=rows,
        preparation=None,
    )
    check_quotas(lwf, inputs)
    check_training_parts(lwf)
    check_models(inputs)
    check_parts(lwf, model, inputs)
    check_answers(run, lwf, inputs)


def holds_out(run: RunArguments, inputs: RunInputs) -> bool:
    """Whether there are held-out learning rows to judge by; never the rows that the run is tested on."""
    return run.world_split == "test" and inputs.sources.learning_validation is not None


def check_answers(run: RunArguments, lwf: LWFConfig, inputs: RunInputs) -> None:
    """Refuse rows whose given answer could not come out of a model and count as right, and prompts after which the
    context has no room for the answers that are generated.

    Raises:
        ValueError: names the task, the row, the field and what fits; a learning example as `RunInputs` does.
    """
    _ = inputs.learning_rows
    context = context_length(inputs.base_config)
    for name, (rows, role, task) in inputs.test_sets.items() if run.generates else ():
        test, what = inputs.evaluation_rows[name], f"{role} task"
        place = inputs.place(what, name, task, "test", row_names(rows))
        check_references(test, task, inputs.generation_config, place)
        _warn_of_long_references(run.eval_max_new_tokens, name, test)
        _check_fit("eval_max_new_tokens", run.eval_max_new_tokens, place, test.prompt_ids, context)
    given = lwf.forget_answers == "given" or inputs.come_scored
    for name, source in inputs.sources.forgetting.items():
        argument = f"forgetting task {name!r}"
        place = inputs.place("forgetting task", name, source.task, "train", source.rows)
        if given and source.answers is not None:
            tokenize_dataset(
                source.answers,
                inputs.tokenizer,
                max_length=None if inputs.come_scored else context,
                argument=argument,
                place=place,
                **inputs.what_counts,
            )
        elicited = not given and needs_elicitation(source.prompts, lwf.forget_answers)
        if elicited and lwf.elicitation_server_url is None:
            try:
                prompts = encoded_in_parts(
                    source.prompts, f"tokenising {argument}", lambda part: encode_prompts(part, inputs.tokenizer)
                )
            except RefusedRowError as error:
                raise ValueError(f"{place(error.position)} {error}") from error
            _check_fit("elicitation_max_new_tokens", lwf.elicitation_max_new_tokens, place, prompts, context)


def _warn_of_long_references(new: int, name: str, test: EvaluationRows) -> None:
    lengths = [len(row.ids) - row.start for row in test.given]
    cut = sum(length > new for length in lengths)
    if cut:
        logger.warning(
            "eval_max_new_tokens=%d is less than %d of the %d given answers of %r have (the longest: %d tokens, its "
            "end included): a model cannot write these to their end.",
            new,
            cut,
            len(lengths),
            name,
            max(lengths),
        )


def _check_fit(
    field: str, new: int, place: Callable[[int], str], prompts: Sequence[list[int]], context: int | None
) -> None:
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]), default=None)
    if context is None or longest is None or len(prompts[longest]) + new <= context:
        return
    room = context - len(prompts[longest])
    fix = f"set {field} to at most {room}" if room > 0 else "shorten it or remove it"
    raise ValueError(
        f"{field}={new} does not fit: the longest prompt ({place(longest)}) has {len(prompts[longest])} tokens of the "
        f"model's context of {context}; {fix}"
    )


def check_models(inputs: RunInputs) -> None:
    """Refuse models whose files are damaged, or whose tokens and generation settings do not fit.

    Raises:
        ValueError: names the model, the file or the token, and the remedy.
    """
    for model in inputs.outlines:
        argument = f"model_name_or_path={model.name_or_path!r}"
        check_vocabulary(argument, model, inputs.tokenizer)
        check_generation_config(argument, model)


def check_parts(lwf: LWFConfig, model: ModelArguments, inputs: RunInputs) -> None:
    """Refuse names of parameters that the model does not have, told by its outline alone.

    Raises:
        ValueError: names the field, its value and what the model's names are like.
    """
    covered = lwf.posterior_config().covered
    lora = model.lora_config()
    if lora is None and (covered.pattern, covered.last_blocks) == (None, None):
        return
    network = inputs.outlines[0]
    if lora is not None:
        with torch.device("meta"):
            network = get_peft_model(copy.deepcopy(network), lora)
    with flat_names({"posterior_": PosteriorConfig}):
        matching_names(unrestricted_names(network, covered.space), covered.pattern, covered.last_blocks)


def defeating_settings(lwf: LWFConfig, inputs: RunInputs) -> list[str]:
    """See `self_defeating`; a run whose rows are packed has fewer updates than is known here."""
    if lwf.unlearn_every == 0:
        return []
    learning = None if lwf.packing else len(inputs.sources.learning_train)
    return self_defeating(lwf, learning, sum(len(source.prompts) for source in inputs.sources.forgetting.values()))


def check_quotas(lwf: LWFConfig, inputs: RunInputs) -> None:
    """Refuse numbers of samples that the forgetting tasks cannot have, before any is scored.

    Raises:
        ValueError: names the field, the value and what there is.
    """
    draws = lwf.elicitation_num_samples_per_prompt
    most = {name: draws * len(source.prompts) for name, source in inputs.sources.forgetting.items()}
    if lwf.forget_count is not None and lwf.forget_count > sum(most.values()):
        raise ValueError(
            f"forget_count={lwf.forget_count} is more than there is: the forgetting tasks have {sum(most.values())} "
            "samples; set fewer"
        )
    for name, amount in mapping_of("forget_quotas", lwf.forget_quotas).items():
        if name not in most:
            near = get_close_matches(name, most, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"forget_quotas names {name!r}: {hint}The forgetting tasks are {', '.join(most)}")
        if isinstance(amount, int) and amount > most[name]:
            raise ValueError(f"forget_quotas[{name!r}]={amount} is more than its {most[name]} samples; set fewer")


def check_training_parts(lwf: LWFConfig) -> None:
    """Refuse an optimizer, a schedule or a tracker that cannot be made here, as training would after other stages.

    Raises:
        ValueError: names the field, its value and what is missing.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(lwf)
    except ImportError as error:
        raise ValueError(f"optim={lwf.optim.value!r}: {error}") from error
    except ValueError:
        # Of an optimizer that has to see the model.
        pass
    schedule = SchedulerType(lwf.lr_scheduler_type).value
    kwargs: Any = lwf.lr_scheduler_kwargs or {}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    try:
        get_scheduler(schedule, optimizer, num_warmup_steps=1, num_training_steps=10, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"lr_scheduler_type={schedule!r} with lr_scheduler_kwargs={kwargs}: {error}") from error
    _check_accelerator(lwf)
    known = set(get_available_reporting_integrations())
    for name in [lwf.report_to] if isinstance(lwf.report_to, str) else lwf.report_to or []:
        if name not in known | {"none", "all"}:
            raise ValueError(
                f"report_to={name!r} is not installed, or no tracker that transformers knows: use "
                f"{', '.join(sorted(known | {'none'}))}, or install it"
            )


def _check_accelerator(lwf: LWFConfig) -> None:
    config = lwf.accelerator_config
    assert isinstance(config, AcceleratorConfig)
    kwargs = config.gradient_accumulation_kwargs or {}
    try:
        GradientAccumulationPlugin(**{"num_steps": 1, **kwargs})
    except TypeError as error:
        raise ValueError(f"accelerator_config: gradient_accumulation_kwargs={kwargs} is not valid: {error}") from error
