"""Ends a process at the n-th change that it makes to a folder: on the path of every process of a run that is killed.

Python reports each file that it opens, renames or removes to an audit hook before it does so, so that the program
itself needs no hook. Updates of an optimizer count as changes too. The plan is JSON in `KILL_PLAN`, see `install`.
"""

import json
import multiprocessing
import os
import signal
import sys

import psutil

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _role() -> str:
    """Which process of a run this is: `main`, `rank-0`, `worker-1`."""
    if "RANK" in os.environ:
        return f"rank-{os.environ['RANK']}"
    process = multiprocessing.current_process()
    return "main" if process.name == "MainProcess" else process.name.lower().replace("spawnprocess", "worker")


def _end(target: str, number: int) -> None:
    """Send the signal to this process (`self`), to its `parent`, or to `all` processes of the run."""
    if target == "parent":
        os.kill(os.getppid(), number)
        return
    if target == "all":
        own = psutil.Process()
        first = own if _role() == "main" else psutil.Process(os.getppid())
        for process in (*first.children(recursive=True), first):
            if process.pid != own.pid:
                process.send_signal(number)
    os.kill(os.getpid(), number)


def install(plan: dict) -> None:
    """Follow a plan.

    Args:
        plan: `root`, the folder; `role`, of the process that counts; `at`, the number of the change, from 1; `signal`,
            by name; `target`, see `_end`; `struck`, a file that is made then; `log`, a file that gets a line a change,
            or null.
    """
    root, log = os.path.realpath(plan["root"]), plan["log"]
    count, hooked = 0, False

    def happened(what: str) -> None:
        nonlocal count
        if _role() != plan["role"]:
            return
        count += 1
        if log:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{what}\n")
        if count == plan["at"]:
            with open(plan["struck"], "w"):
                pass
            _end(plan["target"], getattr(signal, plan["signal"]))

    def hook(event: str, arguments: tuple) -> None:
        nonlocal hooked
        if event not in _CHANGES and not (event == "open" and (arguments[2] or 0) & _WRITING):
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike):
            return
        if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
            # shutil.rmtree removes by the name in a folder that it has open.
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
        if not os.fspath(path).startswith(root):
            return
        optimizers = sys.modules.get("torch.optim.optimizer")
        if optimizers is not None and not hooked:
            hooked = True
            optimizers.register_optimizer_step_post_hook(lambda *_: happened("update"))
        happened(f"{event} {os.path.relpath(path, root)}")

    sys.addaudithook(hook)


if "KILL_PLAN" in os.environ:
    install(json.loads(os.environ["KILL_PLAN"]))
