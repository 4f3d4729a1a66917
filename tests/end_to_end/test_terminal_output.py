"""What a run prints: bars on a terminal and nowhere else, nothing of third parties, --quiet, exit codes."""

import errno
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from graceful_forgetting.cli import commands, main

GRACEFUL = [sys.executable, "-m", "graceful_forgetting.cli"]
# Description, percentage, bar, counts, elapsed < left, rate.
BAR = re.compile(r"([^\r\n|]*?):\s+\d+%\|[^|]*\| \d+/\d+ \[[\d:]+<[\d:?]+, +[\d.?]+ ?\w+(?: \w+)?/s")


def read_terminal(command: list[str]) -> tuple[str, str, int]:
    """Standard output, what a terminal at standard error got, and the exit code."""
    ours, theirs = pty.openpty()
    # A new terminal has no columns, and a bar without columns has no content.
    termios.tcsetwinsize(theirs, (40, 110))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    output, _ = process.communicate()
    os.close(ours)
    return output, shown.decode(errors="replace"), process.returncode


def test_terminal_gets_one_bar_a_stage_that_vanishes(recipe):
    output, shown, code = read_terminal([*GRACEFUL, "run", "--config", str(recipe)])
    assert code == 0
    bars = {match.split(":")[0].strip() for match in BAR.findall(shown)}
    assert bars == {
        "Eliciting self-knowledge",
        "plain/seed-3",
        "Estimating Fisher information",
        "Scoring",
        "lwf/seed-3",
        "evaluation/base",
        "evaluation/plain-seed-3",
        "evaluation/lwf-seed-3",
    }
    # Bars are overwritten by blanks at their end, and nothing else went to standard error.
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""
    assert "%|" not in output
    assert "report: " in output


def test_without_a_terminal_there_are_lines_alone_and_no_warnings(recipe):
    command = [*GRACEFUL, "run", "--config", str(recipe), "--use_lora", "true", "--lora_r", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\r" not in done.stdout
    assert "lwf/seed-3: done in" in done.stdout


def test_quiet_shows_the_result_alone(recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "")  # set by the command, restored after the test
    assert main(["run", "--config", str(recipe), "--quiet"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert "LWF − plain" in captured.out
    assert captured.out.rstrip().endswith(f"report: {tmp_path / 'run' / 'report.html'}")
    for noise in ("running", "done in", "tokens per second", "%|"):
        assert noise not in captured.out
    assert os.environ["TQDM_DISABLE"] == "1"


def test_quiet_still_says_what_is_wrong(recipe, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "")
    assert main(["run", "--config", str(recipe), "--quiet", "--forget_fraction", "7"]) == 2
    assert "fraction=7.0 is not valid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("x=1 must be 2"), 2, "graceful fields: error: x=1 must be 2\n"),
        (FileNotFoundError("no such file"), 2, "graceful fields: error: no such file\n"),
        (ImportError("needs the extra"), 2, "graceful fields: error: needs the extra\n"),
        (RuntimeError("3 cells failed"), 1, "graceful fields: failed: 3 cells failed\n"),
        (FloatingPointError("the loss is nan"), 1, "graceful fields: failed: the loss is nan\n"),
        (OSError(errno.ENOSPC, "No space left"), 2, "graceful fields: error: [Errno 28] No space left\n"),
        (OSError(errno.EIO, "I/O error"), 1, "graceful fields: failed: [Errno 5] I/O error\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
)
def test_exit_codes(error, code, said, capfd, monkeypatch):
    def fail(options, *rest):
        raise error

    monkeypatch.setattr(commands, "fields", fail)
    assert main(["fields"]) == code
    assert capfd.readouterr().err == said


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such-command"], ["env", "--no_such_flag"], ["sweep"], ["run", "--verbose", "--quiet"], ["compare"]],
)
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "graceful" in capsys.readouterr().err


def test_verbose_shows_where_an_error_came_from(capsys):
    assert main(["compare", "nowhere", "elsewhere", "--verbose"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("writes result.json into its output_dir when it ends\n")


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    documented = Path(__file__).parents[2].joinpath("docs", "reference", "command-line.md").read_text(encoding="utf-8")
    commands_there = re.findall(r"^    (\w+)", listed, re.MULTILINE)
    assert {"run", "compare", "sweep"} <= set(commands_there)
    assert [name for name in commands_there if not re.search(rf"`(graceful )?{name}\b", documented)] == []
