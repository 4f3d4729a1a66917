"""Completions from an OpenAI-compatible server (`POST <server_url>/completions`).

Servers differ in what they accept beside the OpenAI fields, so the first request tries the ways of asking in turn
and the first that is accepted stays (`_WAYS`). Where a server returns text alone, the text is tokenised again: the
tokens are those that were generated if they give the text back and are as many as the server counted; otherwise the
completion is kept with the tokenizer's own tokens and marked as not exact. Text does not say which of several EOS
tokens ended it: the tokenizer's own stands in.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import httpx2
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation.backends.judged import Answer, make_answer
from graceful_forgetting.generation import Request

logger = logging.getLogger(__name__)

# Ways of asking, best first: token ids both ways and neutral settings (vLLM); prompt as text and neutral settings
# (`transformers serve`); the fields of OpenAI alone, the prompt as token ids or as text.
_WAYS = ("vllm", "transformers", "ids", "text")
_REFUSED = (400, 422)
_PASSING = (408, 429, 500, 502, 503, 504)
_ATTEMPTS = 5
_FIRST_WAIT = 0.5
# A server may have to load the model, and queues what it cannot do at once.
_TIMEOUT = httpx2.Timeout(600.0, connect=10.0)


class ServerEngine(AbstractContextManager["ServerEngine"]):
    """One request a completion, `config.batch_size` of them under way at once, each with its own seed.

    Whether a seed is honoured, and whether the batch matters, is up to the server. vLLM keeps a stream for each
    request. `transformers serve` (5.23) seeds the process, so sampling is asked one request at a time there; with
    its continuous batching it has no seeds at all.

    Args:
        tokenizer: of the model.
        requests: all that will be asked; where only text can be sent, each prompt must survive as text.
        config: the server's address and the number of requests at once.
        eos_token_ids: tokens that end an answer.

    Raises:
        ConnectionError: the server cannot be reached.
        ValueError: no API key where one is named; the server refuses every way of asking.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        config: ElicitationConfig,
        eos_token_ids: Sequence[int],
    ) -> None:
        assert config.server_url is not None
        self._url = config.server_url.rstrip("/") + "/completions"
        self._tokenizer = tokenizer
        # A server that leaves EOS out does not say which it was: the tokenizer's own comes first.
        self._eos_token_ids = sorted(eos_token_ids, key=lambda token: token != tokenizer.eos_token_id)
        headers = _authorization(config)
        self._client = httpx2.Client(timeout=_TIMEOUT, headers=headers)
        try:
            self._way = self._find_way(requests, config)
        except BaseException:
            self._client.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def answers(self, requests: Sequence[Request], config: ElicitationConfig) -> Iterator[Answer]:
        """One answer for each request, in their order.

        Raises:
            ConnectionError: the server cannot be reached any more.
            RuntimeError: it answers with an error, or with something that is no completion.
        """
        one_stream = self._way == "transformers" and config.temperature > 0
        pool = ThreadPoolExecutor(max_workers=1 if one_stream else config.batch_size)
        try:
            yield from pool.map(lambda request: self._answer(request, config), requests)
        finally:
            # After a failure, what is still under way is not waited for.
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, request: Request, config: ElicitationConfig) -> Answer:
        response = self._post(self._body(request, config, self._way))
        if response.status_code != 200:
            raise RuntimeError(f"{self._url} answered {response.status_code}: {_excerpt(response)}")
        try:
            content = response.json()
            (choice,) = content["choices"]
            text, reason = str(choice["text"]), choice["finish_reason"]
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeError(
                f"{self._url} answered with something that is no completion: {_excerpt(response)}"
            ) from error
        if isinstance(choice.get("token_ids"), list):
            return make_answer(choice["token_ids"], reason == "stop", self._eos_token_ids)
        counted = (content.get("usage") or {}).get("completion_tokens")
        return self._from_text(text, reason == "stop", counted)

    def _from_text(self, text: str, stopped: bool, counted: int | None) -> Answer:
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        returns = self._tokenizer.decode(ids, skip_special_tokens=True) == text
        # Whether the EOS token is counted differs between servers. Reported as "length" and one short is either an EOS
        # token as the last one allowed or another special token, which no text shows: not exact.
        exact = returns and (counted is None or counted in {len(ids), len(ids) + stopped})
        return make_answer(ids, stopped, self._eos_token_ids, exact)

    def _find_way(self, requests: Sequence[Request], config: ElicitationConfig) -> str:
        refusals = []
        for way in _WAYS:
            if way in ("transformers", "text"):
                lost = next((i for i, request in enumerate(requests) if self._text(request) is None), None)
                if lost is not None:
                    refusals.append(f"as text: prompt {lost} does not survive as text with this tokenizer")
                    continue
            response = self._post(self._body(requests[0], config, way) | {"max_tokens": 1})
            if response.status_code == 200:
                logger.info("%s takes requests as %r.", self._url, way)
                return way
            if response.status_code not in _REFUSED:
                raise ValueError(
                    f"{self._url} answered {response.status_code} for model {config.server_model!r}: "
                    f"{_excerpt(response)}; check server_url (with /v1), server_model and server_api_key_env"
                )
            refusals.append(f"as {way}: {response.status_code} {_excerpt(response)}")
        raise ValueError(
            f"{self._url} refuses every way of asking for completions of model {config.server_model!r}: "
            + "; ".join(refusals)
        )

    def _body(self, request: Request, config: ElicitationConfig, way: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": config.server_model,
            "prompt": self._text(request) if way in ("transformers", "text") else request.prompt_ids,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
        }
        if config.temperature > 0:
            body |= {"top_p": 1.0, "seed": request.seed}
        # Servers start from the model's own generation settings, which may hold penalties: neutral ones replace them.
        if way == "vllm":
            body |= {
                "return_token_ids": True,
                "top_k": -1,
                "repetition_penalty": 1.0,
                "stop_token_ids": self._eos_token_ids,
                "min_tokens": 1,
            }
        elif way == "transformers":
            neutral = {
                "do_sample": config.temperature > 0,
                "top_k": 0,
                "repetition_penalty": 1.0,
                "eos_token_id": self._eos_token_ids,
                "min_new_tokens": 1,
            }
            body["generation_config"] = json.dumps(neutral)
        return body

    def _text(self, request: Request) -> str | None:
        """Text of which a server's tokenizer makes exactly the prompt's tokens; None if there is none."""
        text = self._tokenizer.decode(request.prompt_ids, skip_special_tokens=False)
        # Most tokenizers add their BOS token again.
        for candidate in (text, text.removeprefix(self._tokenizer.bos_token or "")):
            if list(self._tokenizer(candidate)["input_ids"]) == request.prompt_ids:
                return candidate
        return None

    def _post(self, body: dict[str, Any]) -> httpx2.Response:
        """The server's answer, after waiting for what passes: no connection, too many requests, a restart."""
        wait = _FIRST_WAIT
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = self._client.post(self._url, json=body)
            except httpx2.TransportError as error:
                if attempt == _ATTEMPTS:
                    raise ConnectionError(
                        f"{self._url} cannot be reached, tried {_ATTEMPTS} times ({type(error).__name__}: {error}); "
                        "check server_url and that the server runs"
                    ) from error
            else:
                if response.status_code not in _PASSING or attempt == _ATTEMPTS:
                    return response
            time.sleep(wait)
            wait *= 2
        raise AssertionError("the last attempt returns or raises")


def _authorization(config: ElicitationConfig) -> dict[str, str]:
    if config.server_api_key_env is None:
        return {}
    key = os.environ.get(config.server_api_key_env)
    if not key:
        raise ValueError(
            f"server_api_key_env={config.server_api_key_env!r}: that environment variable is not set; export the "
            "server's API key in it, or leave server_api_key_env out"
        )
    return {"Authorization": f"Bearer {key}"}


def _excerpt(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:300] or "no text"
