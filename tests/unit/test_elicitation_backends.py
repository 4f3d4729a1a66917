"""A server gives what the model in memory gives, and says clearly what it cannot do."""

import copy
import json
import logging
from typing import Any

import httpx2
import pytest
import torch
from datasets import Dataset
from transformers import GenerationMixin

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation import elicit_self_knowledge, elicit_with_counts
from graceful_forgetting.elicitation.backends import server

PROMPTS = ["w3", "w4 w5 w6 w7 w8 w9 w10", "w11 w12", "w13 w14 w15", "w16 w17 w18 w19 w20", "w21 w22", "w30"]
STOPS = [1, *range(40, 46)]
URL = "http://127.0.0.1:9/v1"


@pytest.fixture
def model(make_model):
    """Random weights whose answers vary, some of them ended early; a penalty of its own that must not be heard."""
    model = make_model(initializer_range=0.4).eval()
    # Never generated, so that every answer survives as text.
    model.lm_head.weight.data[[0, 2, 3]] = 0
    model.generation_config.update(eos_token_id=STOPS, repetition_penalty=5.0)
    return model


def rows() -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "task": f"t{i}"} for i, prompt in enumerate(PROMPTS)])


def assert_same_answers(result: Dataset, expected: Dataset) -> None:
    assert len({len(ids) for ids in expected["input_ids"]}) > 3
    assert {"stop", "length"} == set(expected["finish_reason"])
    for row, other in zip(result, expected, strict=True):
        assert row.pop("mean_log_probability") == pytest.approx(other.pop("mean_log_probability"), rel=1e-5)
        assert row == other


class Server:
    """Answers as a server of `model` would; `accepts` says what it takes beside the fields of OpenAI."""

    def __init__(self, model: GenerationMixin, tokenizer: Any, accepts: set[str], takes_ids: bool = True) -> None:
        self.model, self.tokenizer, self.accepts, self.takes_ids = model, tokenizer, accepts, takes_ids
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx2.Headers] = []
        self.failures: list[int | Exception] = []

    @torch.no_grad()
    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx2.Response(failure, text="not now")
        assert str(request.url) == f"{URL}/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        self.headers.append(request.headers)
        unknown = set(body) - {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"} - self.accepts
        if unknown:
            return httpx2.Response(422, json={"detail": f"Unexpected fields: {sorted(unknown)}"})
        if not isinstance(body["prompt"], str) and not self.takes_ids:
            return httpx2.Response(400, json={"detail": "prompt must be a string."})
        prompt = body["prompt"]
        ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        answer: list[int] = []
        while len(answer) < body["max_tokens"] and (not answer or answer[-1] not in STOPS):
            scores = self.model(torch.tensor([[*ids, *answer]])).logits[0, -1]
            if len(answer) < body.get(
                "min_tokens", json.loads(body.get("generation_config", "{}")).get("min_new_tokens", 0)
            ):
                scores[STOPS] = -torch.inf
            answer.append(int(scores.argmax()))
        stopped = answer[-1] in STOPS and len(answer) < body["max_tokens"]
        text = self.tokenizer.decode([i for i in answer if i not in STOPS], skip_special_tokens=True)
        choice: dict[str, Any] = {"text": text, "index": 0, "finish_reason": "stop" if stopped else "length"}
        if "return_token_ids" in body:
            choice["token_ids"] = answer
        return httpx2.Response(200, json={"choices": [choice], "usage": {"completion_tokens": len(answer)}})


@pytest.fixture
def serve(monkeypatch):
    client = httpx2.Client
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.0)

    def start(*args: Any, **kwargs: Any) -> Server:
        handler = Server(*args, **kwargs)
        monkeypatch.setattr(
            server.httpx2, "Client", lambda **settings: client(transport=httpx2.MockTransport(handler), **settings)
        )
        return handler

    return start


def on_server(**changes: Any) -> ElicitationConfig:
    settings = {"max_new_tokens": 6, "server_url": URL, "server_model": "tiny", "batch_size": 3}
    return ElicitationConfig(**settings | changes)


VLLM_FIELDS = {"return_token_ids", "top_k", "repetition_penalty", "stop_token_ids", "min_tokens"}


@pytest.mark.parametrize(
    ("accepts", "takes_ids", "way"),
    [
        (VLLM_FIELDS, True, "vllm"),
        ({"generation_config"}, False, "transformers"),
        (set(), True, "ids"),
        (set(), False, "text"),
    ],
)
def test_server_equals_the_model_in_memory_however_it_wants_to_be_asked(
    accepts, takes_ids, way, model, tokenizer, serve, caplog
):
    expected = elicit_self_knowledge(model, tokenizer, rows(), ElicitationConfig(max_new_tokens=6))
    running = serve(model, tokenizer, accepts, takes_ids)
    with caplog.at_level(logging.INFO, logger="graceful_forgetting"):
        result, counts = elicit_with_counts(model, tokenizer, rows(), on_server())
    assert f"takes requests as {way!r}" in caplog.text
    if way in ("ids", "text"):
        # Nothing bars the end as the first token there: such answers are empty.
        assert counts.empty == len(expected) - len(result) == 2
        expected = expected.filter(lambda row: row["task"] in result["task"][:])
    if way == "vllm":
        assert_same_answers(result, expected)
    else:
        # Text does not say which of the EOS tokens it was: the tokenizer's own stands in.
        assert result["completion"][:] == expected["completion"][:]
        ended = [reason == "stop" for reason in result["finish_reason"]]
        for ids, other, stop in zip(result["input_ids"], expected["input_ids"], ended, strict=True):
            assert ids == ([*other[:-1], 1] if stop else other)
    assert counts.inexact == 0
    assert {body["model"] for body in running.bodies} == {"tiny"}
    assert all(body["temperature"] == 0.0 and "seed" not in body for body in running.bodies)


def test_server_gets_a_seed_for_each_draw_and_neutral_settings(model, tokenizer, serve):
    running = serve(model, tokenizer, {"generation_config"}, takes_ids=False)
    elicit_self_knowledge(model, tokenizer, rows(), on_server(temperature=0.7, num_samples_per_prompt=2))
    drawn = [body for body in running.bodies if body.get("max_tokens") == 6 and body["temperature"] == 0.7]
    assert len({body["seed"] for body in drawn}) == len(drawn) == 2 * len(PROMPTS)
    assert {body["top_p"] for body in drawn} == {1.0}
    neutral = json.loads(drawn[0]["generation_config"])
    assert (neutral["do_sample"], neutral["top_k"], neutral["repetition_penalty"]) == (True, 0, 1.0)


def test_other_weights_behind_the_server_are_refused(model, tokenizer, serve):
    running = serve(copy.deepcopy(model), tokenizer, VLLM_FIELDS)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(1, dims=0))
    with pytest.raises(ValueError, match=r"server_url=.* does not answer as the model in memory does.*nats a token"):
        elicit_self_knowledge(model, tokenizer, rows(), on_server())
    # One request finds out how to ask, four are the probes.
    assert len(running.bodies) == 1 + 4


def test_text_that_the_tokenizer_divides_otherwise_is_kept_and_counted(model, tokenizer, serve, caplog):
    running = serve(model, tokenizer, set())
    original = Server.__call__

    def miscounting(request: httpx2.Request) -> httpx2.Response:
        response = original(running, request)
        if response.status_code != 200:
            return response
        content = response.json()
        content["usage"]["completion_tokens"] += 3
        return httpx2.Response(200, json=content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "__call__", lambda self, request: miscounting(request))
        _, counts = elicit_with_counts(model, tokenizer, rows(), on_server())
    assert counts.inexact == counts.completions == len(PROMPTS)
    assert "could not be checked" in caplog.text
    assert f"{len(PROMPTS)} of {len(PROMPTS)} completions came back as text" in caplog.text


def test_passing_failures_are_waited_for(model, tokenizer, serve):
    running = serve(model, tokenizer, VLLM_FIELDS)
    running.failures = [httpx2.ConnectError("refused"), 503, 429, httpx2.ReadTimeout("slow")]
    assert elicit_with_counts(model, tokenizer, rows(), on_server())[1].completions == len(PROMPTS)
    assert running.failures == []


@pytest.mark.parametrize(
    ("failures", "error", "message"),
    [
        ([httpx2.ConnectError("refused")] * 9, ConnectionError, f"{URL}/completions cannot be reached, tried 5 times"),
        ([404], ValueError, "answered 404 for model 'tiny': not now; check server_url"),
        ([401], ValueError, "answered 401 .*server_api_key_env"),
        ([503] * 9, ValueError, "answered 503"),
        ([400] * 4, ValueError, "refuses every way of asking.*as vllm: 400 not now.*as text: 400"),
    ],
)
def test_server_that_does_not_answer_is_named(failures, error, message, model, tokenizer, serve):
    running = serve(model, tokenizer, VLLM_FIELDS)
    running.failures = list(failures)
    with pytest.raises(error, match=message):
        elicit_self_knowledge(model, tokenizer, rows(), on_server())


def test_failure_at_work_names_address_and_status(model, tokenizer, serve):
    running = serve(model, tokenizer, VLLM_FIELDS)
    original = Server.__call__

    def fails_later(self: Server, request: httpx2.Request) -> httpx2.Response:
        if len(self.bodies) > 7:
            self.bodies.append({})
            return httpx2.Response(500, text="out of memory")
        return original(self, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "__call__", fails_later)
        with pytest.raises(RuntimeError, match=f"{URL}/completions answered 500: out of memory"):
            elicit_self_knowledge(model, tokenizer, rows(), on_server())
    assert running.bodies


def test_api_key_comes_from_the_environment_and_is_not_shown(model, tokenizer, serve, monkeypatch, caplog):
    running = serve(model, tokenizer, VLLM_FIELDS)
    config = on_server(server_api_key_env="TINY_KEY")
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(ValueError, match="server_api_key_env='TINY_KEY': that environment variable is not set"):
        elicit_self_knowledge(model, tokenizer, rows(), config)
    monkeypatch.setenv("TINY_KEY", "very-secret")
    with caplog.at_level(logging.DEBUG):
        elicit_self_knowledge(model, tokenizer, rows(), config)
    assert {headers["authorization"] for headers in running.headers} == {"Bearer very-secret"}
    assert "very-secret" not in caplog.text + repr(config)
