"""Running cells as jobs of a cluster's scheduler, through submitit."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graceful_forgetting.sweeps.grid import CellSettings
from graceful_forgetting.sweeps.run_cell import InputsCache
from graceful_forgetting.sweeps.workers import Outcome, Task, attempt


def run_cells_on_cluster(
    tasks: Sequence[Task],
    settings: CellSettings,
    jobs: int,
    report: Callable[[Outcome], None],
    cluster: str,
    parameters: Mapping[str, Any],
) -> None:
    """Submit every (cell, key) as a job of its own, `jobs` at once; `report` hears of each as it ends.

    Jobs that need the same shared stage wait for the one that makes it, so that the folder of the sweep must be on a
    file system whose locks hold across machines. An error, or the death of a job, ends its cell and no other. What
    jobs print is in `<output_dir>/logs`. An exception in this process, an interrupt included, cancels those that are
    left.

    Args:
        cluster: as submitit names it: 'slurm', or 'local' for processes of this machine, all of them at once.
        parameters: of a job, for `submitit.AutoExecutor.update_parameters` (`slurm_partition`, `gpus_per_node`,
            `timeout_min`, ...).

    Raises:
        ImportError: submitit is not installed.
        ValueError: a cluster or a parameter that submitit does not know.
    """
    if not tasks:
        return
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--cluster needs submitit: pip install 'graceful-forgetting[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=Path(settings.output_dir, "logs", "%j"), cluster=cluster)
        executor.update_parameters(name="graceful-sweep", slurm_array_parallelism=jobs, **parameters)
    except (NameError, AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"--cluster {cluster}: {error}") from error
    submitted = executor.map_array(lambda task: attempt(task[0], task[1], settings, InputsCache(), print), list(tasks))
    cells = {job.job_id: cell for job, (cell, _) in zip(submitted, tasks, strict=True)}
    try:
        for job in submitit.helpers.as_completed(submitted):
            try:
                report(job.result())
            except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
                text = str(error).strip().splitlines()[0]
                report(Outcome(cells[job.job_id], None, f"job {job.job_id} did not finish: {text}", 0, 0.0))
    except BaseException:
        for job in submitted:
            job.cancel()
        raise
