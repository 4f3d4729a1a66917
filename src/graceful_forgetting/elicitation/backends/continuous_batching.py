"""Continuous batching of transformers: a row that ends makes room for the next one at once."""

from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation import ContinuousMixin

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation.backends.judged import Answer, make_answer
from graceful_forgetting.generation import Request
from graceful_forgetting.generation.mode import generation_mode
from graceful_forgetting.runtime.fingerprint import fingerprint_json

# Tokens a page of the key-value cache. The library's default of 256 suits flash attention and wastes most of a page
# on short answers.
_PAGE = 32


class ContinuousBatchingEngine:
    """`model.generate_batch`, with room in the paged cache for `batch_size` rows of the longest kind.

    Runs on CPU and on accelerators (transformers 5.23), with the attention that the model is set to. It has one
    random stream for all rows: sampled completions depend on the seeds of all requests of a call, so on
    `shard_size` and `batch_size` and on the order of the prompts, but not on what was done before.

    Raises:
        ValueError: the model cannot be paged.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, pad_token_id: int, eos_token_ids: Sequence[int]) -> None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        if not isinstance(base, ContinuousMixin):
            raise ValueError(
                f"backend='continuous_batching' does not support {type(base).__name__}; use backend='transformers'"
            )
        self._model: PreTrainedModel = base
        self._pad_token_id, self._eos_token_ids = pad_token_id, list(eos_token_ids)

    def answers(self, requests: Sequence[Request], config: ElicitationConfig) -> Iterator[Answer]:
        """One answer for each request, in their order, once all are there.

        Raises:
            RuntimeError: a request failed.
        """
        longest = max(len(request.prompt_ids) for request in requests) + config.max_new_tokens
        at_once = min(config.batch_size, len(requests))
        generation = GenerationConfig(
            max_new_tokens=config.max_new_tokens,
            do_sample=config.do_sample,
            pad_token_id=self._pad_token_id,
            # None would be filled in from the model.
            eos_token_id=self._eos_token_ids or -1,
            **({"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.do_sample else {}),
        )
        paging = ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=at_once * -(-longest // _PAGE) + 1,
            max_batch_tokens=max(longest, at_once),
            max_requests_per_batch=at_once,
            seed=int(fingerprint_json([request.seed for request in requests])[:8], 16),
            # It would fetch a kernel from the hub.
            auto_switch_to_flash=False,
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with generation_mode(self._model), torch.no_grad(), torch.random.fork_rng(devices):
            outputs = self._model.generate_batch(
                [request.prompt_ids for request in requests],
                generation_config=generation,
                continuous_batching_config=paging,
            )
        # Failures are only logged by the library.
        failed = [output.error for output in outputs.values() if output.error is not None]
        if failed or len(outputs) < len(requests):
            raise RuntimeError(
                f"continuous batching completed {len(outputs) - len(failed)} of {len(requests)} requests "
                f"({failed[0] if failed else 'its worker stopped, see the log'}); use backend='transformers'"
            )
        for output in outputs.values():
            yield make_answer(output.generated_tokens, False, self._eos_token_ids)
