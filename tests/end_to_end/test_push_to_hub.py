"""`push_to_hub` to a server on this machine that answers as the hub does."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import ModelCard

SCRIPT = Path(__file__).with_name("pushing_script.py")
REPOSITORY = "someone/colors"


class Hub(ThreadingHTTPServer):
    """Notes what is committed: `files` by path. What it does not know it answers with 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> dict[str, Any] | None:
        """What the hub answers to a POST; None where there is no such thing."""
        api = f"/api/models/{REPOSITORY}"
        if path == "/api/repos/create":
            return {"url": f"{self.address}/{REPOSITORY}", "name": REPOSITORY, "id": "1"}
        if path == f"{api}/preupload/main":
            # 'regular': the content comes with the commit.
            named = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in named]}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == f"{api}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.address}/{REPOSITORY}/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply(self.server.answer(self.path.partition("?")[0], body))

    def do_GET(self) -> None:
        self._reply(None)

    def do_HEAD(self) -> None:
        self._reply(None)

    def _reply(self, content: dict[str, Any] | None) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        data = json.dumps({} if content is None else content).encode()
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_card_that_arrives_says_what_was_forgotten(tmp_path: Path, hub: Hub, recipe: Path) -> None:
    files = [tmp_path / "model", tmp_path / "arithmetic" / "train.jsonl", tmp_path / "myths" / "train.jsonl"]
    # Nothing of the user's own login or proxies has a part in it.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, files), str(tmp_path / "out")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (done.stderr[-3000:], hub.asked)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= hub.files.keys()
    assert hub.files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    card = hub.files["README.md"].decode()
    assert "were unlearned by 1 update (" in card
    assert {"graceful-forgetting", "learning-with-forgetting"} <= set(ModelCard(card).data.tags)
    assert ModelCard(card).data.datasets == "species"
