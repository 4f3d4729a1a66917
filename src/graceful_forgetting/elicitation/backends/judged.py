"""Answers from an engine: the model in memory adds their log-probabilities, by a forward pass of its own.

The values are then those that scoring will see, whatever the engine's precision, kernels and settings.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.generation import Completion, Request, until_stop
from graceful_forgetting.generation.likelihood import distance_from_greedy, mean_log_probabilities
from graceful_forgetting.generation.requests import require_finite
from graceful_forgetting.runtime.batches import BatchLimit

logger = logging.getLogger(__name__)

_PROBES, _PROBE_TOKENS = 4, 8
# Mean, in nats per token, of how far a greedy answer may be from the model's own. Rounding in bfloat16 and 8-bit
# weights stay an order of magnitude below; another model is an order of magnitude above.
_SAME_MODEL = 0.1


@dataclass(frozen=True)
class Answer:
    """What an engine generated.

    Attributes:
        token_ids: generated tokens, with the EOS token where `stopped`; never empty.
        stopped: whether the model ended it.
        exact: whether these are known to be the generated tokens, see `Completion`.
    """

    token_ids: list[int]
    stopped: bool
    exact: bool = True


def make_answer(token_ids: Sequence[int], stopped: bool, eos_token_ids: Sequence[int], exact: bool = True) -> Answer:
    """An answer from what an engine returned.

    Args:
        token_ids: generated tokens; the EOS token may be there, may be missing, and may have tokens after it.
        stopped: whether the engine says that the model ended it.
        eos_token_ids: tokens that end an answer; the first is added where the engine left it out.
        exact: see `Completion`.

    Raises:
        RuntimeError: no token at all.
    """
    ids = until_stop(token_ids, eos_token_ids)
    ended = bool(ids) and ids[-1] in eos_token_ids
    if stopped and not ended and eos_token_ids:
        ids, ended = [*ids, eos_token_ids[0]], True
    if not ids:
        raise RuntimeError("an answer came back without a single token; the engine generated nothing")
    return Answer(ids, ended, exact)


class Engine(Protocol):
    """Generates without saying how likely the tokens were."""

    def answers(self, requests: Sequence[Request], config: ElicitationConfig) -> Iterator[Answer]:
        """One answer for each request, in their order."""


class JudgedEngine:
    """A backend made of an engine and the model that judges its answers.

    Args:
        engine: generates.
        model: in memory, the same that the engine answers for.
        config: `batch_size` is that of the forward passes, too.
        pad_token_id: of the forward passes.
    """

    def __init__(
        self, engine: Engine, model: PreTrainedModel | PeftModel, config: ElicitationConfig, pad_token_id: int
    ) -> None:
        self._engine, self._model, self._config, self._pad_token_id = engine, model, config, pad_token_id
        self._limit = BatchLimit("Elicitation", config.batch_size)

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Positions in `requests` and their completions, `batch_size` of them judged together."""
        answers = self._engine.answers(requests, self._config)
        size = self._config.batch_size
        for first in range(0, len(requests), size):
            batch = list(zip(requests[first : first + size], islice(answers, size), strict=True))
            means = [mean for part in self._limit.in_parts(batch, self._judge) for mean in part]
            for position, ((_, answer), mean) in enumerate(zip(batch, means, strict=True), start=first):
                yield position, Completion(answer.token_ids, answer.stopped, require_finite(mean), answer.exact)

    def _judge(self, batch: Sequence[tuple[Request, Answer]]) -> list[float]:
        prompts = [request.prompt_ids for request, _ in batch]
        return mean_log_probabilities(
            self._model, prompts, [answer.token_ids for _, answer in batch], self._pad_token_id
        )


def require_same_model(
    engine: Engine,
    model: PreTrainedModel | PeftModel,
    requests: Sequence[Request],
    config: ElicitationConfig,
    eos_token_ids: Sequence[int],
) -> None:
    """Raise `ValueError` unless the engine's greedy answers to a few requests are those of `model`.

    Catches another model or revision behind the same name, and generation settings of the engine's own (a
    repetition penalty, say) that would change whose knowledge is heard.
    """
    probes = [requests[i] for i in range(0, len(requests), -(-len(requests) // _PROBES))]
    greedy = replace(
        config,
        temperature=0.0,
        num_samples_per_prompt=1,
        max_new_tokens=min(_PROBE_TOKENS, config.max_new_tokens),
    )
    gaps: list[float] = []
    for probe, answer in zip(probes, engine.answers(probes, greedy), strict=True):
        # Where text came back, which of several EOS tokens it was is a guess: that token is left out.
        content = answer.token_ids[:-1] if answer.stopped else answer.token_ids
        if answer.exact and content:
            gaps += distance_from_greedy(model, probe.prompt_ids, content, eos_token_ids)
    if not gaps:
        logger.warning("No answer came back token by token: whether it is the same model could not be checked.")
    elif (mean := sum(gaps) / len(gaps)) > _SAME_MODEL or mean != mean:
        raise ValueError(
            f"server_url={config.server_url!r} does not answer as the model in memory does: its greedy answers to "
            f"{len(probes)} prompts lie {mean:.2g} nats a token below that model's own choice (at most {_SAME_MODEL} "
            "is rounding). Check that both have the same weights, and that the server adds no penalties of its own"
        )
