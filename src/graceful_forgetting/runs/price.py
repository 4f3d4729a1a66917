"""The price of `graceful run`, said before its first stage."""

import copy
from contextlib import suppress
from typing import Any

import torch

from graceful_forgetting.evaluation.general_ability import GeneralAbility
from graceful_forgetting.gradients.shared_prompts import prompt_of, reads_prompts_once, tokens_in_common
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runtime.distributed import process_count
from graceful_forgetting.training.measured_speed import measured_speed
from graceful_forgetting.training.price import options_each, pool_lengths, price_of, prompts_of, worth_measuring
from graceful_forgetting.training.stages import StagesAhead
from graceful_forgetting.training.trials import most_candidates
from graceful_forgetting.training.work import Amounts, Lengths, Work, looked_at, stage_work


def announce_price(pipeline: Pipeline) -> None:
    """Say what the stages that are not in the run directory will take; nothing where that is seconds.

    The model is the one that the fingerprint of the first stage is of. Nothing is said under several processes, whose
    share of the work the measurement does not know.
    """
    if process_count() > 1:
        return
    model = pipeline.inputs.base_model()
    # What is wrong with a row or too large, the stages say with a remedy.
    with suppress(ValueError, torch.OutOfMemoryError):
        text = run_price(pipeline, model)
        if text is not None:
            pipeline.announce(text)


def stages_ahead(pipeline: Pipeline) -> list[str]:
    """Names of the stages that a run would make, in their order."""
    tasks = list(pipeline.inputs.sources.forgetting)
    names = most_candidates(tasks, pipeline.lwf.forget_trials == "both")
    directory = StagesAhead(pipeline.directory, names)
    twin = copy.copy(pipeline)
    twin.use(directory)
    if not pipeline.inputs.come_scored:
        twin.method.self_knowledge()
    twin.method.scores()
    twin.method.selection()
    twin.train()
    twin.evaluate()
    return directory.ahead


def run_price(pipeline: Pipeline, model: Any) -> str | None:
    """What the run will take, in lines; none where it takes seconds. `model`: the base model, left as it was."""
    ahead, inputs, lwf, run = stages_ahead(pipeline), pipeline.inputs, pipeline.lwf, pipeline.run
    if not ahead:
        return None
    amounts = run_amounts(pipeline, model)
    if not worth_measuring(amounts.parameters, works(pipeline, ahead, amounts, lwf.elicitation_max_new_tokens)):
        return None
    prompts = [ids for rows in inputs.evaluation_rows.values() for ids in rows.prompt_ids] if run.generates else []
    pool = pipeline.method.rows.forgetting if amounts.elicits else None
    if pool is not None:
        prompts = prompts_of(pool, inputs.tokenizer)
    speed = measured_speed(model, inputs.tokenizer, lwf, inputs.learning_rows, prompts, pool, amounts.trained)
    answer = speed.answer(lwf.elicitation_max_new_tokens)
    shorter = speed.answer(max(run.eval_max_new_tokens, 1))
    work = works(pipeline, ahead, amounts, answer, shorter)
    uncounted = ["lm_eval_tasks"] if run.lm_eval_tasks and any("evaluation" in name for name in ahead) else []
    if lwf.elicitation_server_url is not None and "self_knowledge" in ahead:
        uncounted.append("the answers of the server")
    return price_of(work, speed, lwf, amounts, model, uncounted)


def run_amounts(pipeline: Pipeline, model: Any) -> Amounts:
    """What the run works on."""
    inputs, lwf = pipeline.inputs, pipeline.lwf
    learning, held_out = inputs.learning_rows, inputs.held_out_rows
    elicits, prompts = pool_lengths(pipeline.method.rows, lwf.forget_answers)
    lora = pipeline.model.lora_config()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if lora is not None:
        output = model.get_output_embeddings()
        linear = [m for m in model.modules() if m is not output and type(m).__name__ == "Linear"]
        trained = sum(lora.r * (module.in_features + module.out_features) for module in linear)
    return Amounts(
        learning=Lengths.of(looked_at(learning)["input_ids"][:], len(learning)),
        held_out=Lengths(0, ()) if held_out is None else Lengths.of(looked_at(held_out)["input_ids"][:], len(held_out)),
        prompts=prompts,
        elicits=elicits,
        options=options_each(pipeline.method.rows.forgetting),
        reads_once=reads_prompts_once(model),
        parameters=model.num_parameters(),
        trained=trained,
        model_bytes=sum(parameter.nbytes for parameter in model.parameters()),
    )


def works(
    pipeline: Pipeline, ahead: list[str], amounts: Amounts, answer: float, tested: float | None = None
) -> dict[str, Work]:
    """What each stage does.

    Args:
        pipeline: of the run.
        ahead: names of the stages.
        amounts: what it works on.
        answer: mean length of an answer that is elicited, in tokens.
        tested: the same of one that is generated in the evaluation; none: its limit.
    """
    tested = float(pipeline.run.eval_max_new_tokens) if tested is None else tested
    found = {}
    for name in ahead:
        head, _, rest = name.partition("/")
        if head == "evaluation":
            found[name] = evaluation_work(pipeline.run, pipeline.inputs, pipeline.general_ability, tested, amounts)
            continue
        args = pipeline.methods[head].args if head in pipeline.methods else pipeline.lwf
        if head in pipeline.methods:
            head = "lwf" if rest.startswith("seed-") else rest.partition("/")[0]
        found[name] = stage_work(head, args, amounts, answer)
    return found


def evaluation_work(
    run: RunArguments, inputs: RunInputs, general: GeneralAbility, answer: float, amounts: Amounts
) -> Work:
    """What the test of one model does; `answer`: mean length of an answer in tokens."""
    work = Work(stored=amounts.model_bytes)
    for name in inputs.test_sets:
        rows = inputs.evaluation_rows[name]
        prompts = [prompt_of(options[0]) for options in rows.options]
        common = tokens_in_common(prompts)
        for options, prompt in zip(rows.options, prompts, strict=True):
            pairs, twice = sum(len(pair["input_ids"]) for pair in options), (len(options) - 1) * len(prompt) + common
            work += Work(read=pairs - twice if amounts.reads_once else pairs)
        if run.generates:
            number = len(rows.rows)
            work += Work(read=sum(map(len, rows.prompt_ids)), generated=number * (answer - 1))
    if general.text is None:
        return work
    text = inputs.tokenizer(text=general.text, add_special_tokens=False, verbose=False)
    return work + Work(read=len(text["input_ids"]))
