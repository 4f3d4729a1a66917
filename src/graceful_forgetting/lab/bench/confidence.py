"""`graceful bench confidence`: time, memory and error of the scoring engine against its alternatives, in one run."""

import ctypes
import gc
import logging
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import torch

from graceful_forgetting.lab.bench.architectures import largest_error
from graceful_forgetting.lab.bench.methods import METHODS, Run, Setting, oracle
from graceful_forgetting.results.provenance import collect_hardware, package_versions, peak_memory, reset_peak_memory
from graceful_forgetting.results.text import size
from graceful_forgetting.results.text_tables import aligned

logger = logging.getLogger(__name__)
UNIT = "forward + backward"
AT_SCALE = (UNIT, "engine")
"""What is measured with models larger than 7M: the others hold all gradients of all samples, or take long."""
_PACKAGES = ("torch", "transformers", "opacus", "backpack-for-pytorch", "bergson")


def benchmark_confidence(
    settings: Sequence[Setting],
    *,
    repetitions: int = 9,
    threads: int = 2,
    methods: Sequence[str] | None = None,
    announce: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Measure every method in every setting.

    Times are of one batch in steady state: model built, one call made (for the engine: rules checked). In each of
    the repetitions every method runs once, one after the other, so that a change of the machine's speed meets all of
    them; the ratio is the median over the repetitions of time over that of forward + backward in the same one.
    Memory is what a call adds to the resident memory of a fresh process that has made a small call before and has
    returned what that left (for the engine, the call checks the rules again).

    Args:
        repetitions: ≥ 2.
        methods: names in `METHODS`; unset: all with the model 7M, `AT_SCALE` with a larger one.
        threads: that torch computes with.
        announce: receives a line at the start, and one at the end of each part.

    Returns:
        JSON-able: machine, versions, and a row for each setting and method. A method that does not run has its
        reason under `failure`.

    Raises:
        ValueError: fewer than 2 repetitions.
    """
    if repetitions < 2:
        raise ValueError(f"repetitions is {repetitions}; a spread needs 2 or more")
    chosen = {s: list(dict.fromkeys([UNIT, *(methods or _fitting(s))])) for s in settings}
    names = dict.fromkeys(name for fitting in chosen.values() for name in fitting)
    announce(f"measuring {', '.join(names)} in {len(settings)} settings, memory first")
    peaks: dict[tuple[Setting, str], int | None] = {}
    for number, setting in enumerate(settings, 1):
        peaks |= {(setting, name): _peak_bytes(setting, name, threads) for name in chosen[setting]}
        announce(f"memory, {number} of {len(settings)}: {_in_words(setting)}")
    torch.set_num_threads(threads)
    rows = []
    for number, setting in enumerate(settings, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the alternatives' own
            measured = _measure(setting, chosen[setting], repetitions)
        for row in measured:
            peak, unit = peaks[setting, row["method"]], peaks[setting, UNIT]
            ratio = peak / unit if peak and unit else None
            rows.append({**asdict(setting), **row, "peak_bytes": peak, "peak_ratio": ratio})
        announce(f"time, {number} of {len(settings)}: {_in_words(setting)}")
    weights = {str(tied): sum(p.numel() for p in Setting(8, 0, 1, tied).model().parameters()) for tied in (False, True)}
    return {
        "hardware": asdict(collect_hardware()),
        "platform": platform.platform(),
        "versions": package_versions(_PACKAGES),
        "threads": threads,
        "repetitions": repetitions,
        "parameters_by_tied": weights,
        "rows": rows,
    }


def _fitting(setting: Setting) -> Sequence[str]:
    return tuple(METHODS) if setting.shape == "7M" else AT_SCALE


def _in_words(setting: Setting) -> str:
    tied = ", output layer tied" if setting.tied else ""
    rows = f"{setting.batch_size} samples of {setting.tokens} tokens, {setting.prompt_tokens} of the prompt"
    return f"{setting.shape}, {rows}{tied}"


def table(result: dict[str, Any]) -> str:
    """The rows as text."""
    heads = (
        "model",
        "tokens",
        "prompt",
        "batch",
        "tied",
        "method",
        "ms",
        "IQR",
        "x",
        "memory",
        "x",
        "error",
        "first call",
    )
    lines: list[tuple[str, ...]] = [heads]
    for row in result["rows"]:
        setting = (row["shape"], row["tokens"], row["prompt_tokens"], row["batch_size"], "yes" if row["tied"] else "no")
        head = (*map(str, setting), row["method"])
        if "failure" in row:
            lines.append((*head, row["failure"][:60]))
            continue
        lower, upper = row["quartiles"]
        lines.append(
            (
                *head,
                f"{1e3 * row['seconds']:.1f}",
                f"{1e3 * lower:.0f}-{1e3 * upper:.0f}",
                f"{row['ratio']:.2f}",
                size(row["peak_bytes"]),
                f"{row['peak_ratio']:.2f}",
                "" if row["error"] is None else f"{row['error']:.0e}",
                f"{1e3 * row['first_seconds']:.0f} ms",
            )
        )
    return aligned(lines)


def _measure(setting: Setting, methods: Sequence[str], repetitions: int) -> list[dict[str, Any]]:
    expected = oracle(setting)()
    assert expected is not None
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in methods:
        try:
            runs[name] = METHODS[name](setting)
            seconds, values = _timed(runs[name])
        except Exception as error:  # a peer may fail in any way; that it does is the result
            runs.pop(name, None)
            rows[name] = {"method": name, "failure": f"{type(error).__name__}: {error}"}
            continue
        difference = None if values is None else largest_error(values, expected)
        rows[name] = {"method": name, "first_seconds": seconds, "error": difference}
    for name, found in interleaved(runs, repetitions, _timed).items():
        rows[name].update(found)
    # The engines end with their runs: here, and not when the collector happens to come by inside a peer's transform,
    # where a model's flags cannot be set back.
    runs.clear()
    gc.collect()
    return list(rows.values())


def interleaved(
    runs: Mapping[str, Run], repetitions: int, timed: Callable[[Run], tuple[float, Any]]
) -> dict[str, dict[str, Any]]:
    """Seconds of each run, one after the other in every repetition: median, quartiles, median ratio to `UNIT`, all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(timed(run)[0])
    found = {}
    for name, seconds in times.items():
        ratios = [mine / unit for mine, unit in zip(seconds, times[UNIT], strict=True)]
        lower, middle, upper = statistics.quantiles(seconds, n=4)
        found[name] = {
            "seconds": middle,
            "quartiles": [lower, upper],
            "ratio": statistics.median(ratios),
            "all_seconds": seconds,
        }
    return found


def _timed(run: Run) -> tuple[float, Any]:
    start = time.perf_counter()
    values = run()
    return time.perf_counter() - start, values


def _peak_bytes(setting: Setting, name: str, threads: int) -> int | None:
    """Memory that one call of a method adds, measured in a process of its own; None if it fails."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_report_memory, args=(setting, name, threads, sending))
    process.start()
    sending.close()
    peak: int | None = receiving.recv()
    process.join()
    return peak


def _report_memory(setting: Setting, name: str, threads: int, sending: Connection) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    try:
        METHODS[name](Setting(8, 0, 2, setting.tied))()
        gc.collect()
        run = METHODS[name](setting)
        _return_freed_memory()
        before = _resident()
        reset_peak_memory()
        run()
        sending.send(peak_memory().process_bytes - before)
    except Exception:  # reported by the timing of the same method
        sending.send(None)


def _return_freed_memory() -> None:
    """To the system: what the small call and the setting up have left free would hide as much of the call's need."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    import psutil

    return psutil.Process().memory_info().rss
