"""Elicitation from a real OpenAI-compatible server: `transformers serve` on the loopback address."""

import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pytest
import torch
from datasets import Dataset

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation import elicit_self_knowledge, elicit_with_counts

COMMAND = Path(sys.executable).with_name("transformers")
MISSING = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"transformers[serving] is not installed: {MISSING}")

START_LIMIT = 180.0


@pytest.fixture
def model(make_model):
    model = make_model(initializer_range=0.4).eval()
    # Special tokens, which no text shows, are never generated; the penalty must not be heard.
    model.lm_head.weight.data[[0, 2, 3]] = 0
    model.generation_config.repetition_penalty = 5.0
    return model


@pytest.fixture
def tokenizer(tokenizer):
    tokenizer.chat_template = "{% for message in messages %}w58 {{ message['content'] }} {% endfor %}w59"
    return tokenizer


@pytest.fixture
def rows() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(0, 60, (length,), generator=generator).tolist() for length in (1, 3, 5, 8, 2, 4, 6, 7)]
    return Dataset.from_dict({"prompt": [" ".join(f"w{i}" for i in words) for words in drawn]})


@pytest.fixture
def settings(tmp_path, model, tokenizer):
    """Starts the server on a free port, stops it afterwards; gives the settings that reach it."""
    folder = tmp_path / "served"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(COMMAND), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + START_LIMIT
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < limit, f"no server after {START_LIMIT} s: {log.read_text()[-2000:]}"
            try:
                httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False)
                break
            except httpx2.TransportError:
                time.sleep(0.2)
        yield {
            "server_url": f"http://127.0.0.1:{port}/v1",
            "server_model": str(folder),
            "max_new_tokens": 8,
        }
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def asking_for_a_key(settings):
    """Settings that reach the same server through a door that opens to one key; what it was asked with is kept."""
    served = settings["server_url"]
    keys: list[str | None] = []

    class Door(BaseHTTPRequestHandler):
        def do_POST(self):
            keys.append(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = 401, b"who are you?"
            if keys[-1] == "Bearer open-sesame":
                url = served + self.path.removeprefix("/v1")
                answer = httpx2.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=60)
                status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        yield {**settings, "server_url": f"http://127.0.0.1:{door.server_port}/v1"}, keys
        door.shutdown()


def assert_same_answers(result, expected):
    for row, other in zip(result, expected, strict=True):
        assert row.pop("mean_log_probability") == pytest.approx(other.pop("mean_log_probability"), rel=1e-5)
        assert row == other


def test_real_server(settings, asking_for_a_key, model, tokenizer, rows, monkeypatch):
    # Greedy: what the model in memory answers.
    expected = elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(max_new_tokens=8))
    result, counts = elicit_with_counts(model, tokenizer, rows, ElicitationConfig(**settings, batch_size=3))
    assert counts.inexact == 0
    assert counts.tokens_per_second > 0
    assert_same_answers(result, expected)

    # A conversation, through the tokenizer's own template.
    chats = rows.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]}, remove_columns="prompt")
    own = elicit_self_knowledge(model, tokenizer, chats, ElicitationConfig(max_new_tokens=8))
    assert own[0]["completion"][0]["role"] == "assistant"
    assert own["input_ids"][:] != expected["input_ids"][:]
    assert_same_answers(elicit_self_knowledge(model, tokenizer, chats, ElicitationConfig(**settings)), own)

    # With a key, and without.
    behind, keys = asking_for_a_key
    monkeypatch.setenv("SERVER_KEY", "open-sesame")
    keyed = ElicitationConfig(**behind, server_api_key_env="SERVER_KEY")
    assert_same_answers(elicit_self_knowledge(model, tokenizer, rows, keyed), expected)
    assert set(keys) == {"Bearer open-sesame"}
    with pytest.raises(ValueError, match=r"answered 401 .*who are you.*server_api_key_env"):
        elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(**behind))
    monkeypatch.setenv("SERVER_KEY", "guessed")
    with pytest.raises(ValueError, match="answered 401"):
        elicit_self_knowledge(model, tokenizer, rows, keyed)

    # Sampled: one stream for each draw.
    sampling = {**settings, "temperature": 1.5, "num_samples_per_prompt": 2}
    drawn, counts = elicit_with_counts(model, tokenizer, rows, ElicitationConfig(**sampling, seed=1))
    drawn = drawn.to_list()
    assert counts.completions == 2 * len(rows)
    assert len({tuple(row["input_ids"]) for row in drawn}) > len(rows)
    assert elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(**sampling, seed=1)).to_list() == drawn
    one = elicit_self_knowledge(model, tokenizer, rows.select([3]), ElicitationConfig(**sampling, seed=1))
    alone = [row["input_ids"] for row in drawn if row["prompt"] == rows[3]["prompt"]]
    assert one["input_ids"][:] == alone
    other = elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(**sampling, seed=2))
    assert other["input_ids"][:] != [row["input_ids"] for row in drawn]

    # Another model behind the name, and a name that the server does not know.
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(1, dims=0))
    with pytest.raises(ValueError, match="does not answer as the model in memory does"):
        elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(**settings))
    with pytest.raises(ValueError, match=r"refuses every way of asking.*pinned"):
        elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(**{**settings, "server_model": "another"}))
