"""What cannot be unlearned under is refused by name, with the remedy, before any work."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from torch.distributed.fsdp import StateDictType

from graceful_forgetting import LWFConfig
from graceful_forgetting.cli import main
from graceful_forgetting.training.topology import check_topology, requested_topology

FSDP = {
    "fsdp_version": 2,
    "cpu_ram_efficient_loading": False,
    "state_dict_type": StateDictType.FULL_STATE_DICT,
}


def check(folder, kind: str, changes: dict, **settings) -> None:
    args = LWFConfig(output_dir=str(folder), use_cpu=True, bf16=False, activation_checkpointing=False, **settings)
    check_topology(args, DistributedType[kind], SimpleNamespace(**FSDP | changes) if kind == "FSDP" else None)


@pytest.mark.parametrize(
    ("kind", "changes", "settings", "expected"),
    [
        ("DEEPSPEED", {}, {}, "under DeepSpeed is not supported.*fsdp2"),
        ("XLA", {}, {}, "under DistributedType.XLA is not supported: use one process, DDP or FSDP2"),
        ("FSDP", {"fsdp_version": 1}, {}, "fsdp_version=1 .*set fsdp_version: 2"),
        ("FSDP", {"cpu_ram_efficient_loading": True}, {}, "cpu_ram_efficient_loading=True .*set it to false"),
        (
            "FSDP",
            {"state_dict_type": StateDictType.SHARDED_STATE_DICT},
            {},
            "state_dict_type=SHARDED_STATE_DICT .*set it to FULL_STATE_DICT",
        ),
        ("FSDP", {}, {"baseline": "l2_sp"}, "baseline='l2_sp' .*use one process or DDP"),
        ("FSDP", {}, {"forget_trials": "during"}, "forget_trials='during' cannot be used with FSDP.*use DDP"),
    ],
)
def test_what_is_not_supported(tmp_path, kind, changes, settings, expected):
    with pytest.raises(ValueError, match=expected):
        check(tmp_path, kind, changes, **settings)


def test_what_is_supported(tmp_path):
    supported = set()
    for kind in DistributedType.__members__:
        with suppress(ValueError):
            check(tmp_path, kind, {})
            supported.add(kind)
    assert supported == {"NO", "MULTI_GPU", "MULTI_CPU", "FSDP"}


def test_what_the_launcher_asks_for_is_known_before_there_is_a_trainer(monkeypatch):
    args = SimpleNamespace(deepspeed=None, fsdp_plugin_args=None)
    assert requested_topology(args) == (DistributedType.NO, None)
    with monkeypatch.context() as launched:
        launched.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        assert requested_topology(args) == (DistributedType.DEEPSPEED, None)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    kind, plugin = requested_topology(args)
    assert (kind, plugin.fsdp_version) == (DistributedType.FSDP, 2)


def test_processes_that_are_not_connected(tmp_path, monkeypatch):
    args = LWFConfig(output_dir=str(tmp_path), bf16=False, activation_checkpointing=False)
    assert args.world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched and do not know of each other.*use_cpu=True"):
        check_topology(args, DistributedType.NO, None)


def test_a_run_is_refused_before_its_first_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    assert main(["run", "--world", "shortcut", "--output_dir", str(tmp_path / "run")]) == 2
    assert "fsdp_version=1 is not supported" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
