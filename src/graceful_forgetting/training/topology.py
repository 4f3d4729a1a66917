"""Which ways of training on several devices unlearning works under; the others are refused by name."""

import os

from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, str_to_bool

from graceful_forgetting.config import LWFConfig

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU, DistributedType.FSDP)


def requested_topology(args: LWFConfig) -> tuple[DistributedType, FullyShardedDataParallelPlugin | None]:
    """What the launcher or `args` ask for, before there is a trainer, as far as it is refused or sharded; else `NO`."""
    if args.deepspeed or _set("ACCELERATE_USE_DEEPSPEED"):
        return DistributedType.DEEPSPEED, None
    if args.fsdp_plugin_args is not None or _set("ACCELERATE_USE_FSDP"):
        return DistributedType.FSDP, FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
    return DistributedType.NO, None


def check_topology(args: LWFConfig, kind: DistributedType, plugin: FullyShardedDataParallelPlugin | None) -> None:
    """Refuse what unlearning, or a baseline, is not supported under.

    Args:
        args: settings of the run.
        kind: as accelerate names it.
        plugin: settings of FSDP; none without it.

    Raises:
        ValueError: names the setting and the remedy.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and args.world_size == 1:
        raise ValueError(
            f"{launched} processes were launched and do not know of each other: this machine has no device for them. "
            "Set use_cpu=True, or launch one process"
        )
    if kind == DistributedType.DEEPSPEED:
        raise ValueError(
            "unlearning or a baseline under DeepSpeed is not supported: its engine owns the optimizer and the float32 "
            "weights, and takes no updates beside its own. Use --accelerate_config fsdp2, which shards what ZeRO-3 "
            "shards, or unlearn_every=0 and no baseline"
        )
    if kind not in _SUPPORTED:
        raise ValueError(
            f"unlearning or a baseline under {kind} is not supported: use one process, DDP or FSDP2, or "
            "unlearn_every=0 and no baseline"
        )
    if plugin is None:
        return
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"fsdp_version={plugin.fsdp_version} is not supported with unlearning or a baseline: set fsdp_version: 2"
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading=True leaves all processes but one without weights until training begins, "
            "and the stages before it use the whole model on each: set it to false"
        )
    if plugin.state_dict_type.name != "FULL_STATE_DICT":
        raise ValueError(
            f"fsdp_state_dict_type={plugin.state_dict_type.name} saves no model that can be loaded as a whole, as the "
            "reference run and the stages after training need: set it to FULL_STATE_DICT"
        )
    if args.baseline is not None:
        raise ValueError(
            f"baseline={args.baseline!r} reads whole weights during training, which FSDP shards: use one process or DDP"
        )
    if args.forget_trials != "none":
        raise ValueError(
            f"forget_trials={args.forget_trials!r} cannot be used with FSDP, whose trainers cannot share a model: use "
            "DDP, or set forget_trials='none'"
        )


def _set(variable: str) -> bool:
    return bool(str_to_bool(os.environ.get(variable, "false")))
