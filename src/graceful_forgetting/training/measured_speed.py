"""How fast a model is, measured on a few batches: what the price of a run is reckoned with."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig, LWFConfig
from graceful_forgetting.data import IGNORE_INDEX, answer_ends, collate
from graceful_forgetting.generation import complete, make_requests, stop_token_ids
from graceful_forgetting.gradients.memory import backward_bytes
from graceful_forgetting.gradients.token_loss import mean_losses
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.training.price import Speed
from graceful_forgetting.training.work import looked_at

# Tokens of a measured batch, and of a row in it.
_MEASURED_TOKENS, _LONGEST = 1024, 512
# Tokens generated for each of the measured prompts.
_NEW_TOKENS = 8
# Elements whose optimizer step is measured.
_PROBE = 2**22


def measured_speed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: LWFConfig,
    learning: Dataset,
    prompts: Sequence[list[int]],
    rows: Dataset | None,
    trained: int,
) -> Speed:
    """Measure a batch of learning rows, forward and backward, and a few tokens after some prompts.

    Args:
        model: left as it was, with its gradients; no random numbers are consumed.
        tokenizer: of the model.
        args: settings of training and elicitation.
        learning: tokenised learning rows.
        prompts: tokenised; none: nothing is generated.
        rows: those that the first of `prompts` comes from, which say how answers end; none: as the tokenizer says.
        trained: number of parameters that will be trained; fewer than those of the model that have gradients: those of
            an adapter that it does not have yet.

    Raises:
        torch.OutOfMemoryError: a batch does not fit.
    """
    names = _differentiated(model, trained)
    chosen = _batch(looked_at(learning), args.train_batch_size)
    pad = tokenizer.pad_token_id
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    try:
        with preserved_rng(), differentiating(model, names):
            first = collate(chosen[:1], pad, model.device)
            # Also what warms the model up: the first pass is slower than those after it.
            activations = backward_bytes(model, first, 1, names) / first["input_ids"].numel()
            batch = collate(chosen, pad, model.device)
            tokens = batch["input_ids"].numel()
            both = _timed(model.device, lambda: _pass(model, batch, args.bf16)) / tokens
            with torch.no_grad():
                forward = _timed(model.device, lambda: mean_losses(model, batch)) / tokens
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = grads[name]
    recomputed = forward if args.gradient_checkpointing else 0.0
    generated, ends = 0.0, 0.0
    if prompts:
        with preserved_rng():
            generated, ends = _generation(model, tokenizer, args.elicitation_config(), prompts, rows)
    return Speed(both + recomputed, both, forward, generated, _step(model.device, trained), ends, activations)


def _differentiated(model: PreTrainedModel, trained: int) -> list[str]:
    """The parameters that are trained; in place of an adapter, a vector of the first layer, from which on it is."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if trained < sum(parameter.numel() for _, parameter in named):
        return next([name] for name, parameter in named if parameter.ndim == 1)
    return [name for name, _ in named]


def _batch(rows: Dataset, size: int) -> list[dict[str, list[int]]]:
    """Rows of lengths between the shortest and the longest, evenly spaced: few enough tokens to be quick."""
    rows = rows.with_format(None)
    usable = [
        {"input_ids": row["input_ids"][:_LONGEST], "labels": row["labels"][:_LONGEST]}
        for row in rows
        if any(label != IGNORE_INDEX for label in row["labels"][1:_LONGEST])
    ]
    usable.sort(key=lambda row: -len(row["input_ids"]))
    size = min(size, len(usable), max(1, _MEASURED_TOKENS // len(usable[0]["input_ids"])))
    return [usable[(2 * place + 1) * len(usable) // (2 * size)] for place in range(size)]


def _pass(model: PreTrainedModel, batch: Mapping[str, Tensor], bf16: bool) -> None:
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        loss = model(**batch, use_cache=False).loss
    loss.backward()


def _generation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: ElicitationConfig,
    prompts: Sequence[list[int]],
    rows: Dataset | None,
) -> tuple[float, float]:
    """Seconds a token, and the probability that an answer ends with it."""
    own = answer_ends(tokenizer, [rows.with_format(None)[0]]) if rows is not None else set[int]()
    stops = stop_token_ids(model.generation_config, tokenizer, own)
    number = min(len(prompts), config.batch_size, max(1, _MEASURED_TOKENS // max(map(len, prompts))))
    chosen = [prompts[(2 * place + 1) * len(prompts) // (2 * number)] for place in range(number)]
    new = min(config.max_new_tokens, _NEW_TOKENS)
    found = []
    # The first time warms up.
    for some, most in ((chosen[:1], 1), (chosen, 1), (chosen, new)):
        settings = replace(config, max_new_tokens=most, num_samples_per_prompt=1, batch_size=number)
        requests = make_requests(some, settings)
        start = time.perf_counter()
        pad = tokenizer.pad_token_id
        done = complete(model, requests, settings, pad_token_id=pad, eos_token_ids=stops, may_be_empty=False)
        answers = [answer for _, answer in done]
        found.append((time.perf_counter() - start, answers))
    (short, _), (long, answers) = found[1:]
    tokens = sum(len(answer.token_ids) for answer in answers)
    ended = sum(answer.stopped for answer in answers)
    if model.device.type != "cpu":
        # A step takes as long for a whole batch as for these rows.
        short, long = short * number / config.batch_size, long * number / config.batch_size
    # Half an end where there was none: that nobody has ended yet says little.
    return max(long - short, 0.0) / max(tokens - number, 1), max(ended, 0.5) / tokens


def _step(device: torch.device, trained: int) -> float:
    """Seconds of a step of AdamW, with clipping, for so many parameters, by that of some."""
    elements = min(trained, _PROBE)
    probe = torch.zeros(elements, device=device, requires_grad=True)
    probe.grad = torch.ones_like(probe)
    optimizer = torch.optim.AdamW([probe])

    def step() -> None:
        torch.nn.utils.clip_grad_norm_([probe], 1.0)
        optimizer.step()

    step()
    return _timed(device, step) * trained / elements


def _timed(device: torch.device, run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
