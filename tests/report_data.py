"""Results and scored samples as an experiment would make them, for the tests of the reports."""

import numpy as np
from datasets import Dataset

from graceful_forgetting.results.provenance import collect_provenance
from graceful_forgetting.results.result import (
    ChoiceMetrics,
    GuardResult,
    LogEntry,
    RunResult,
    SelectionResult,
    StageResult,
    TaskMetrics,
    TaskSelection,
    TrainingRunResult,
)
from graceful_forgetting.results.summary import summarise
from graceful_forgetting.runtime.store import Entry

HOSTILE = "</script><script>alert(1)</script><!-- \"quoted\" 'single' & <b>bold</b> \u2028\u2029 {{ 7 * 7 }}"


PLAIN, LWF, REFERENCE = (0.60, 0.61, 0.62), (0.70, 0.72, 0.71), (0.80, 0.80, 0.83)


def training_run(arm, seed, learning, forgetting=None, *, stopped=False):
    tasks = {"new rule": TaskMetrics("learning", learning, None, 100, unparsable=5)}
    for name, value in (forgetting or {}).items():
        tasks[name] = TaskMetrics("forgetting", value, None, 100)
    log = []
    if seed is not None:
        unlearning = (3.0, 2.0, 1) if arm == "lwf" else (None, None, None)
        log = [LogEntry(step, 2.0 / step, 1e-3, 1.0, *unlearning) for step in (1, 2, 3)]
    guard = GuardResult(stopped, "loss too high" if stopped else None, 3 if stopped else None)
    return TrainingRunResult(arm, seed, log, tasks, 3, guard)


def result_of(runs, *, name="An experiment", config=None, selection=None, stages=()):
    return RunResult(
        name=name,
        created="2025-01-01T00:00:00+00:00",
        config=config or {"learning_rate": 1e-4},
        provenance=collect_provenance(
            model_fingerprint="model-print",
            data_fingerprints={"learning": "data-print"},
            posterior_fingerprint=None,
            seeds=[1],
            command_line=["graceful", "run"],
        ),
        stages=list(stages),
        runs=runs,
        selection=selection,
        summary=summarise(runs),
    )


def samples_of(count, *, tasks=("old", "older"), prompt="prompt", completion="completion", seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.lognormal(0, 2, count)
    return Dataset.from_dict(
        {
            "prompt": [f"{prompt} {row}" for row in range(count)],
            "completion": [completion] * count,
            "forgetting_task": [tasks[row % len(tasks)] for row in range(count)],
            "forgetting_confidence": confidence,
            "confidence_linear": generator.normal(0, 1, count),
            "confidence_quadratic": confidence / 2,
            "loss": generator.uniform(0, 3, count),
            "chosen": (confidence > 1).tolist(),
        }
    )


def three_seed_result(name="An experiment", config=None, lwf=LWF):
    """Base model, plain, LWF and never-knew of three seeds, with a stopped run, a selection and two stages."""
    runs = [training_run("base", None, 0.2, {"old": 0.9})]
    for arm, values in (("plain", PLAIN), ("lwf", lwf), ("never_knew", REFERENCE)):
        runs += [
            training_run(arm, seed, value, {"old": value - 0.1}, stopped=(arm, seed) == ("lwf", 2))
            for seed, value in enumerate(values)
        ]
    return result_of(
        runs,
        name=name,
        config=config,
        selection=SelectionResult(
            "highest", 60, 20, 1.0, 2.0, {"0.5": 0.3}, {"old": TaskSelection(30, 15, "conflicting")}
        ),
        stages=[
            StageResult("elicit", "reused", 75.0, 3 * 2**29, None, "0123456789abcdef", {"samples": 60}),
            StageResult("train", "run", 0.5, 2**20, 2**31, "fedcba", {}),
        ],
    )


def full_result():
    """`three_seed_result` with every kind of number that a run can measure, and four settings."""
    result = three_seed_result(
        name="Nine letters, forgetting old habits",
        config={"learning_rate": 1e-4, "unlearn_every": 10, "forgetting_tasks": ["old", "older"], "baseline": None},
    )
    for index, run in enumerate(result.runs):
        run.neutral_bits_per_byte = 1.2 + 0.01 * index
        run.lm_eval = {"arc_easy": {"acc": 0.4 + 0.01 * index, "acc_norm": 0.45}}
        rule = run.metrics["new rule"]
        rule.bits_per_byte, rule.f1, rule.chrf = 0.9 - 0.01 * index, 0.5 + 0.01 * index, 40.0 + index
        run.metrics["old"].choice = ChoiceMetrics(0.7, 0.72, 0.25, 0.6, 0.62 + 0.01 * index)
    result.summary = summarise(result.runs)
    return result


def write_run(folder, result, samples):
    """The folder of a finished run, as far as a comparison reads it."""
    scored = samples.remove_columns("chosen")
    chosen = [row for row, taken in enumerate(samples["chosen"]) if taken]
    result.stages = []
    for name, rows in (("scores", scored), ("selection", scored.select(chosen).add_column("source_index", chosen))):
        Entry(folder / name, f"key-of-{name}", "stage.json").write(
            lambda path, rows=rows: rows.save_to_disk(str(path / "rows")) or {}
        )
        result.stages.append(StageResult(name, "run", 1.5, 2**20, None, f"key-of-{name}", {}))
    result.save(folder / "result.json")
    return folder
