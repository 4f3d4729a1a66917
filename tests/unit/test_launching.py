"""`graceful --accelerate_config`: what it starts, what it returns, what it refuses."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands import launch as accelerate_launch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from graceful_forgetting.cli import main
from graceful_forgetting.cli.launching import config_names, find_config, launch


@pytest.fixture
def launched(monkeypatch) -> list:
    """What would have been launched."""
    started = []

    def launch_command(arguments):
        arguments.on_cpu = os.environ.get("ACCELERATE_USE_CPU")
        arguments.log_level = os.environ.get("TORCH_CPP_LOG_LEVEL")
        started.append(arguments)

    monkeypatch.setattr(accelerate_launch, "launch_command", launch_command)
    return started


def test_every_configuration_of_the_package_is_one_of_accelerate():
    for name in config_names():
        arguments = accelerate_launch.launch_command_parser().parse_args(["--config_file", str(find_config(name)), "x"])
        _, defaults, _ = accelerate_launch._validate_launch_command(arguments)
        assert defaults is not None
        assert defaults.num_processes == 2


def test_the_command_is_launched_again_without_the_flags_of_the_launch(launched):
    command = ["run", "--accelerate_config", "fsdp2", "--seed", "3", "--num_processes=4", "--verbose", "--force"]
    assert main(command) == 0
    assert launched[0].config_file == str(find_config("fsdp2"))
    assert (launched[0].num_processes, launched[0].module) == (4, True)
    assert launched[0].training_script == "graceful_forgetting.cli"
    assert launched[0].training_script_args == ["run", "--seed", "3", "--verbose", "--force"]
    assert launched[0].on_cpu == (None if torch.accelerator.is_available() else "true")


def test_torch_warns_of_its_own_in_verbose_launches_alone(launched, monkeypatch):
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    for flags in ([], ["--verbose"]):
        assert main(["run", "--accelerate_config", "ddp", *flags]) == 0
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    assert main(["run", "--accelerate_config", "ddp"]) == 0
    assert [arguments.log_level for arguments in launched] == ["ERROR", None, "INFO"]


def test_several_machines_and_a_file_of_ones_own(launched, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(Path(find_config("ddp")).read_text()) | {"num_processes": 8}))
    machines = ["--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    assert launch("module", ["--accelerate_config", str(file), *machines, "--main_process_port", "29500"]) == 0
    assert launched[0].config_file == str(file)
    assert (launched[0].num_machines, launched[0].machine_rank) == (2, 1)
    assert (launched[0].main_process_ip, launched[0].main_process_port) == ("10.0.0.1", 29500)


def test_without_a_configuration_nothing_is_launched(launched):
    assert launch("module", ["run", "--config", "recipe.yaml"]) is None
    assert not launched


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file="none"), 2),
        (ProcessFailure(local_rank=0, pid=1, exitcode=-9, error_file="none"), 1),
    ],
)
def test_the_exit_code_is_that_of_the_process_that_failed(monkeypatch, failure, expected):
    def fail(_):
        raise ChildFailedError("module", {failure.local_rank: failure})

    monkeypatch.setattr(accelerate_launch, "launch_command", fail)
    assert main(["run", "--accelerate_config", "ddp"]) == expected


def test_the_exit_code_of_a_single_process(monkeypatch):
    def fail(_):
        raise subprocess.CalledProcessError(3, "module")

    monkeypatch.setattr(accelerate_launch, "launch_command", fail)
    assert main(["run", "--accelerate_config", "ddp"]) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--accelerate_config", "zero9"], "--accelerate_config zero9: neither a file nor one of ddp, fsdp2"),
        (["--accelerate_config", "ddp", "--num_processes", "0"], "--num_processes is 0; it must be 1 or more"),
        (["--num_processes", "2"], "--num_processes needs --accelerate_config: ddp, fsdp2, or a file"),
    ],
)
def test_what_cannot_be_launched(launched, capsys, arguments, expected):
    assert main(["run", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not launched
