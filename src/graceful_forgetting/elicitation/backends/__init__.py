"""What generates the completions: the model in memory, or a server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation.backends.judged import JudgedEngine, require_same_model
from graceful_forgetting.elicitation.backends.server import ServerEngine
from graceful_forgetting.generation import Completion, Request, complete
from graceful_forgetting.runtime.batches import BatchLimit


class Backend(Protocol):
    """Completes requests."""

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Positions in `requests` and their completions, as they are ready."""


class TransformersBackend:
    """Batches of similar length through `model.generate`."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        config: ElicitationConfig,
        pad_token_id: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self._model, self._config = model, config
        self._pad_token_id, self._eos_token_ids = pad_token_id, eos_token_ids
        self._limit = BatchLimit("Elicitation", config.batch_size)

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Positions in `requests` and their completions, as they are ready."""
        return complete(
            self._model,
            requests,
            self._config,
            pad_token_id=self._pad_token_id,
            eos_token_ids=self._eos_token_ids,
            may_be_empty=False,
            limit=self._limit,
        )


@contextmanager
def open_backend(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    config: ElicitationConfig,
    *,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
) -> Iterator[Backend]:
    """The server at `config.server_url`, or the model in memory where there is none, for use within the block.

    A server is first asked a few of `requests`, to see that it is `model`.

    Raises:
        ValueError: the server cannot do what is asked, or answers for another model.
        ConnectionError: the server cannot be reached.
    """
    if config.server_url is None:
        yield TransformersBackend(model, config, pad_token_id, eos_token_ids)
    else:
        with ServerEngine(tokenizer, requests, config, eos_token_ids) as server:
            require_same_model(server, model, requests, config, eos_token_ids)
            yield JudgedEngine(server, model, config, pad_token_id)
