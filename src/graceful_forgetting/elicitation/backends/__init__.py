"""What generates the completions: one file a backend."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation.backends.continuous_batching import ContinuousBatchingEngine
from graceful_forgetting.elicitation.backends.judged import JudgedEngine, require_same_model
from graceful_forgetting.elicitation.backends.server import ServerEngine
from graceful_forgetting.elicitation.backends.vllm import VllmEngine
from graceful_forgetting.generation import Completion, Request, complete


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

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Positions in `requests` and their completions, as they are ready."""
        return complete(
            self._model,
            requests,
            self._config,
            pad_token_id=self._pad_token_id,
            eos_token_ids=self._eos_token_ids,
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
    """The backend that `config.backend` names, for use within the block.

    A model that is served elsewhere is first asked a few of `requests`, to see that it is `model`.

    Raises:
        ImportError: the backend's package is not installed.
        ValueError: the backend cannot do what is asked, or answers for another model.
        ConnectionError: the server cannot be reached.
    """
    if config.backend == "transformers":
        yield TransformersBackend(model, config, pad_token_id, eos_token_ids)
    elif config.backend == "continuous_batching":
        yield JudgedEngine(ContinuousBatchingEngine(model, pad_token_id, eos_token_ids), model, config, pad_token_id)
    elif config.backend == "vllm":
        longest = max(len(request.prompt_ids) for request in requests)
        vllm = VllmEngine(model, config, eos_token_ids, longest + config.max_new_tokens)
        require_same_model(vllm, model, requests, config)
        yield JudgedEngine(vllm, model, config, pad_token_id)
    else:
        with ServerEngine(tokenizer, requests, config, eos_token_ids) as server:
            require_same_model(server, model, requests, config)
            yield JudgedEngine(server, model, config, pad_token_id)
