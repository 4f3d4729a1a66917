"""Running cells: in this process, or several at once in processes that live as long as there is work."""

import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from graceful_forgetting.runtime.secrets import without_secrets
from graceful_forgetting.runtime.termination import EXIT_CODE, Terminated, end_with_parent, ends_on_sigterm
from graceful_forgetting.sweeps.grid import Cell, CellSettings
from graceful_forgetting.sweeps.run_cell import InputsCache, run_cell

Task = tuple[Cell, str]
# A cell whose process dies (killed, out of memory) is tried so often.
ATTEMPTS = 2
_SECOND = 1.0


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its score, or the error that ended it; stages made for it; seconds."""

    cell: Cell
    score: float | None
    error: str | None
    stages_made: int
    seconds: float


def run_cells(
    tasks: Sequence[Task],
    settings: CellSettings,
    jobs: int,
    report: Callable[[Outcome], None],
    show: Callable[[str], None],
) -> None:
    """Run every (cell, key), `jobs` at once; `report` hears of each as it ends.

    `show` hears of what is under way: the lines of stages, or of processes the cells, every second.

    An error ends its cell and no other. A process that dies is replaced, and its cell tried once more. What workers
    print is in `<output_dir>/logs`.
    """
    if jobs == 1 or len(tasks) <= 1:
        cache = InputsCache()
        with _without_old_garbage():
            for cell, key in tasks:
                report(attempt(cell, key, settings, cache, show))
        return
    with _Workers(min(jobs, len(tasks)), settings) as workers:
        workers.run(tasks, report, show)


def attempt(
    cell: Cell, key: str, settings: CellSettings, cache: InputsCache, announce: Callable[[str], None]
) -> Outcome:
    """Run one cell; an error is its outcome, and kept in `error.txt` of its folder."""
    start = time.perf_counter()
    error_file = Path(settings.output_dir) / cell.folder / "error.txt"
    try:
        result = run_cell(cell, key, settings, cache, announce)
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError) as error:
        # On a full disk the message has to do.
        with suppress(OSError):
            error_file.parent.mkdir(parents=True, exist_ok=True)
            error_file.write_text(without_secrets(traceback.format_exc()), encoding="utf-8")
        text = without_secrets(f"{type(error).__name__}: {error}")
        return Outcome(cell, None, text, 0, time.perf_counter() - start)
    error_file.unlink(missing_ok=True)
    made = sum(stage.status == "run" for stage in result.stages)
    return Outcome(cell, result.score, None, made, time.perf_counter() - start)


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None


class _Workers:
    """Processes that are handed one cell after another. They end with this process, whatever ends it."""

    def __init__(self, count: int, settings: CellSettings):
        self._count = count
        self._settings = settings
        self._logs = Path(settings.output_dir, "logs")
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._started = 0

    def __enter__(self) -> "_Workers":
        self._logs.mkdir(parents=True, exist_ok=True)
        self._workers = [self._start() for _ in range(self._count)]
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            # Whoever still works was interrupted: one that trains saves a checkpoint first.
            worker.connection.close()
            if worker.task is not None:
                worker.process.terminate()
            worker.process.join()

    def _start(self) -> _Worker:
        mine, its = self._context.Pipe()
        log = self._logs / f"worker-{self._started}.log"
        self._started += 1
        process = self._context.Process(target=_work, args=(its, self._settings, log), daemon=True)
        with _threads(self._count):
            process.start()
        its.close()
        return _Worker(process, mine)

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], None], show: Callable[[str], None]) -> None:
        """Hand out the tasks and wait for all of them; `show` hears every second which are under way."""
        waiting = deque(tasks)
        attempts: Counter[Path] = Counter()
        while waiting or any(worker.task for worker in self._workers):
            for worker in self._workers:
                if worker.task is None and waiting:
                    worker.task = waiting.popleft()
                    attempts[worker.task[0].folder] += 1
                    # A dead process is noticed below.
                    with suppress(BrokenPipeError, ConnectionResetError):
                        worker.connection.send(worker.task)
            busy = [worker for worker in self._workers if worker.task is not None]
            while not wait([worker.connection for worker in busy], timeout=_SECOND):
                names = ["/".join(worker.task[0].folder.parts[-2:]) for worker in busy if worker.task]
                show(f"{', '.join(names)} ...")
            for worker in busy:
                if not worker.connection.poll():
                    continue
                try:
                    outcome = worker.connection.recv()
                except (EOFError, OSError):
                    self._replace(worker, waiting, attempts, report)
                    continue
                worker.task = None
                # What it raises, a full disk or a closed pipe, says nothing of the worker.
                report(outcome)

    def _replace(
        self, worker: _Worker, waiting: "deque[Task]", attempts: Counter[Path], report: Callable[[Outcome], None]
    ) -> None:
        assert worker.task is not None
        cell = worker.task[0]
        worker.process.join()
        if attempts[cell.folder] < ATTEMPTS:
            waiting.appendleft(worker.task)
        else:
            code = worker.process.exitcode
            error = (
                f"its process died {ATTEMPTS} times (exit code {code}; −9 is often a lack of memory); see {self._logs}"
            )
            report(Outcome(cell, None, error, 0, 0.0))
        worker.connection.close()
        self._workers[self._workers.index(worker)] = self._start()


@contextmanager
def _without_old_garbage() -> Iterator[None]:
    """Every training run ends with a garbage collection (Accelerate's), which need not look at all imported modules."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _threads(jobs: int) -> Iterator[None]:
    """The environment of new processes: their share of the processors, unless the user has set one."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        del os.environ[name]


def _work(connection: Connection, settings: CellSettings, log: Path) -> None:
    """The life of a worker: cells until the connection closes."""
    # Ctrl-C reaches the whole group; the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    end_with_parent(parent.pid)
    with suppress(Terminated), ends_on_sigterm(lambda _: None):
        _work_on(connection, settings, log)
        return
    sys.exit(EXIT_CODE)


def _work_on(connection: Connection, settings: CellSettings, log: Path) -> None:
    cache = InputsCache()
    with (
        log.open("a", buffering=1, encoding="utf-8") as output,
        redirect_stdout(output),
        redirect_stderr(output),
        _without_old_garbage(),
    ):
        while True:
            try:
                cell, key = connection.recv()
                connection.send(attempt(cell, key, settings, cache, print))
            except (EOFError, BrokenPipeError):
                return
