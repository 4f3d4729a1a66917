"""Starting a command in several processes, with accelerate's own launcher and its configuration files."""

import argparse
import os
import subprocess
from pathlib import Path

# Environment variable: number of the process that started this one.
LAUNCHER = "GRACEFUL_LAUNCHER"
CONFIGS = Path(__file__).parent / "accelerate_configs"


def launch_parser() -> argparse.ArgumentParser:
    """`--accelerate_config`, and the flags of `accelerate launch` that go with it; for use among `parents`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("several processes")
    group.add_argument("--accelerate_config", help=f"{', '.join(config_names())}, or a file of `accelerate config`")
    group.add_argument("--num_processes", type=int, help="over all machines; unset: as the configuration says")
    group.add_argument("--num_machines", type=int)
    group.add_argument("--machine_rank", type=int, help="number of this machine, from 0")
    group.add_argument("--main_process_ip", help="address of machine 0")
    group.add_argument("--main_process_port", type=int, help="port on machine 0")
    return parser


def config_names() -> list[str]:
    """The configurations in the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find_config(name_or_path: str) -> Path:
    """The file of a configuration in the package, or the path itself.

    Raises:
        FileNotFoundError: neither of both.
    """
    path = CONFIGS / f"{name_or_path}.yaml" if name_or_path in config_names() else Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"--accelerate_config {name_or_path}: neither a file nor one of {', '.join(config_names())}"
        )
    return path


def launch(module: str, arguments: list[str]) -> int | None:
    """Run `python -m module` in the processes that the flags of `launch_parser` among `arguments` describe.

    The processes get the other arguments. Where this machine has no accelerator, they compute on the CPU.

    Returns:
        the exit code of the process that failed first, 0 where none did, 130 after an interrupt, 143 after SIGTERM;
        None where `arguments` have no `--accelerate_config`, and nothing was run.

    Raises:
        FileNotFoundError: no such configuration.
        ValueError: fewer than one process; flags that need `--accelerate_config`; what accelerate refuses.
    """
    options, own = launch_parser().parse_known_args(arguments)
    given = {name: value for name, value in vars(options).items() if value is not None}
    name_or_path = given.pop("accelerate_config", None)
    if name_or_path is None:
        if given:
            raise ValueError(f"--{next(iter(given))} needs --accelerate_config: {', '.join(config_names())}, or a file")
        return None
    config = find_config(name_or_path)
    if given.get("num_processes", 1) < 1:
        raise ValueError(f"--num_processes is {options.num_processes}; it must be 1 or more")
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from graceful_forgetting.runtime.internals import run_launcher

    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    # Its flag for the CPU starts one process, and the configuration's is not handed on to several.
    environment = {} if torch.accelerator.is_available() else {"ACCELERATE_USE_CPU": "true"}
    environment[LAUNCHER] = str(os.getpid())
    if "--verbose" not in own and "TORCH_CPP_LOG_LEVEL" not in os.environ:
        # Every process of DDP warns that it looked for unused parameters in vain. It has to: some models have them.
        environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    try:
        run_launcher(["--config_file", str(config), *flags, "--module", module, *own], environment)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        # A process that a signal ended has a negative code.
        return failure.exitcode if failure.exitcode > 0 else 1
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 1
    except SignalException as error:
        return 128 + error.sigval
    except KeyboardInterrupt:
        return 130
    return 0
