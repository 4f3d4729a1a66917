"""Which Python the tests run with beside the one of the environment."""

import json
import subprocess
import sys

import pytest

from release import newest_python


def answers(monkeypatch, report: dict | None):
    def run(command, **_):
        output = "" if report is None else json.dumps({"install": [report]})
        return subprocess.CompletedProcess(command, 1 if report is None else 0, output, "ERROR: no versions\n")

    monkeypatch.setattr(subprocess, "run", run)


def report(*needs: str) -> dict:
    return {"metadata": {"requires_dist": list(needs)}, "download_info": {"url": "https://index/torch.whl"}}


def test_a_build_for_the_cpu_is_tested_with(monkeypatch):
    answers(monkeypatch, report("filelock", "sympy>=1.13"))
    assert newest_python.reason_against("python3.99", "torch==2.13.0") is None


@pytest.mark.skipif(sys.platform != "linux", reason="CUDA comes by itself on Linux alone")
def test_a_build_for_cuda_and_none_at_all_are_reasons_against(monkeypatch):
    answers(monkeypatch, report("filelock", 'nvidia-nccl-cu13==2; platform_system == "Linux"'))
    assert "with CUDA only" in newest_python.reason_against("python3.99", "torch==2.13.0")
    answers(monkeypatch, None)
    assert "no torch==2.13.0 for it: ERROR: no versions" in newest_python.reason_against("python3.99", "torch==2.13.0")


def test_what_does_not_start_is_passed_over(monkeypatch):
    monkeypatch.setattr(newest_python, "candidates", lambda: iter(["false", sys.executable]))
    assert newest_python.newest_python() == sys.executable
    monkeypatch.setattr(newest_python, "candidates", lambda: iter(["false"]))
    assert newest_python.newest_python() is None


def test_a_skip_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["newest_python.py", "torch==2.13.0"])
    monkeypatch.setattr(newest_python, "newest_python", lambda: sys.executable)
    monkeypatch.setattr(newest_python, "reason_against", lambda *_: "no torch")
    monkeypatch.setattr(subprocess, "run", lambda *command, **_: subprocess.CompletedProcess(command, 0))
    assert newest_python.main() == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "SKIPPED" in err
    assert "no torch" in err
