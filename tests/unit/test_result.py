import dataclasses
import json
import math
import typing
from enum import Enum
from pathlib import Path

import psutil
import pytest
import torch

from graceful_forgetting.results.provenance import (
    collect_provenance,
    peak_memory,
    reset_peak_memory,
)
from graceful_forgetting.results.result import (
    SCHEMA_VERSION,
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
from graceful_forgetting.runtime.secrets import public_settings

SCHEMA_PAGE = Path(__file__).parents[2] / "docs" / "result-schema.md"


def metrics(accuracy, role="learning", **others):
    return TaskMetrics(role=role, accuracy=accuracy, correct=None, total=100, **others)


def training_run(arm, seed, **tasks):
    return TrainingRunResult(arm, seed, [], tasks, 0, GuardResult(False, None, None))


def result(runs):
    return RunResult(
        name="test",
        created="2025-01-01T00:00:00+00:00",
        config={"learning_rate": 1e-4, "nested": {"a": [1, None]}},
        provenance=collect_provenance(
            model_fingerprint="m",
            data_fingerprints={"learning": "l"},
            posterior_fingerprint=None,
            seeds=[1],
            command_line=["graceful", "run"],
        ),
        stages=[StageResult("elicit", "reused", 1.5, 10, None, "key", {"samples": 3})],
        runs=runs,
        selection=SelectionResult("highest", 4, 1, 0.5, 1.0, {"0.5": 2.0}, {"old": TaskSelection(4, 1, None)}),
        summary=summarise(runs),
    )


# Fields with a default, which older files do not have.
YOUNGER = ("fell_back", "held_out_loss", "plain_held_out_loss", "trials", "processor", "line_search", "old")


@pytest.fixture
def complete():
    runs = [
        TrainingRunResult(
            arm,
            seed,
            [LogEntry(1, 2.0, 1e-3, 0.5, 1.0, 0.1, 1), LogEntry(2, 1.0, None, None)],
            {
                "new": metrics(0.5 + 0.1 * index + 0.01 * seed),
                "old": metrics(0.9, "forgetting", unparsable=2),
            },
            2,
            GuardResult(True, "loss", 2),
        )
        for index, arm in enumerate(("plain", "lwf", "never_knew"))
        for seed in (1, 2)
    ]
    return result([training_run("base", None, new=metrics(0.1)), *runs])


def test_file_round_trip(complete, tmp_path):
    path = complete.save(tmp_path / "result.json")
    assert RunResult.load(path) == complete
    assert next(iter(json.loads(path.read_text()))) == "schema_version"


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, "1", None])
def test_other_schema_version_is_refused_by_name(complete, version):
    content = complete.to_json() | {"schema_version": version}
    with pytest.raises(ValueError, match=rf"schema_version={version!r}.*reads schema version {SCHEMA_VERSION}"):
        RunResult.from_json(content)


def test_version_1_reads_with_what_it_did_not_measure_as_none(complete):
    content = complete.to_json() | {"schema_version": 1}
    for run in content["runs"]:
        del run["neutral_bits_per_byte"], run["lm_eval"]
        for values in run["metrics"].values():
            del values["f1"], values["chrf"], values["choice"]
    assert RunResult.from_json(content) == complete
    del content["runs"]
    with pytest.raises(ValueError, match=r"result\.runs is missing"):
        RunResult.from_json(content)


def test_summary_prefers_the_metric_that_the_task_declares():
    choice = ChoiceMetrics(0.5, 0.6, 0.25, 1 / 3, 0.35 / 0.75)
    for expected, values in (("f1", {"f1": 0.4}), ("chrf", {"chrf": 30.0}), ("accuracy", {"choice": choice})):
        assert summarise([training_run("base", None, new=metrics(0.5, **values))]).tasks["new"].metric == expected
    task = summarise([training_run("base", None, new=metrics(None, choice=choice, bits_per_byte=1.0))]).tasks["new"]
    assert (task.metric, task.arms["base"].mean) == ("choice_accuracy", choice.adjusted_per_byte)
    assert task.higher_is_better


def test_file_that_is_no_result_is_refused():
    with pytest.raises(ValueError, match="schema_version is missing"):
        RunResult.from_json({"loss": 1})


def every_field(content, path=()):
    """Paths of all dataclass fields in the JSON of a result (free-form objects have none)."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*path, key)
            if key not in ("config", "detail", "packages", "data_fingerprints", "crossover_quantiles"):
                yield from every_field(value, (*path, key))
    elif isinstance(content, list) and content:
        yield from every_field(content[0], (*path, 0))


def test_fields_that_are_younger_than_a_file_have_their_defaults(complete):
    content = complete.to_json()
    for run in content["runs"]:
        for name in ("fell_back", "held_out_loss", "plain_held_out_loss"):
            del run["guard"][name]
        del run["line_search"]
    del content["selection"]["trials"]
    del content["provenance"]["hardware"]["processor"]
    read = RunResult.from_json(content)
    assert all(run.line_search is None for run in read.runs)
    assert all(run.guard.held_out_loss is None and not run.guard.fell_back for run in read.runs)
    assert read.selection.trials is None
    assert read.provenance.hardware.processor is None


def test_every_missing_field_is_named(complete):
    names_of_objects = {"tasks", "metrics", "arms"}  # their keys are names of tasks and arms, not fields
    removed = 0
    for path in every_field(complete.to_json()):
        if isinstance(path[-1], int) or (len(path) > 1 and path[-2] in names_of_objects) or path[-1] in YOUNGER:
            continue
        content = complete.to_json()
        place = content
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        with pytest.raises(ValueError, match=rf"\.{path[-1]} is missing"):
            RunResult.from_json(content)
        removed += 1
    assert removed > 60


def test_missing_field_is_named_with_its_place(complete):
    content = complete.to_json()
    del content["runs"][2]["guard"]["reason"]
    with pytest.raises(ValueError, match=r"result\.runs\[2\]\.guard\.reason is missing"):
        RunResult.from_json(content)


def test_unknown_field_is_named(complete):
    content = complete.to_json()
    content["provenance"]["colour"] = "red"
    with pytest.raises(ValueError, match=r"provenance\.colour is unknown; known: packages"):
        RunResult.from_json(content)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("stages", 0, "seconds"), "1", r"stages\[0\]\.seconds='1'.*a number"),
        (("stages", 0, "status"), "done", r"status='done'.*run, reused"),
        (("runs", 1, "unlearn_updates"), True, "unlearn_updates=True.*int"),
        (("runs", 1, "unlearn_updates"), 1.5, "unlearn_updates=1.5.*int"),
        (("runs", 1, "guard", "stopped"), 1, "stopped=1.*bool"),
        (("runs", 1, "training_log"), {}, "training_log={}.*a list"),
        (("runs", 1, "metrics"), [], "metrics=.*an object"),
        (("summary",), 3, "summary must be an object, got int"),
    ],
)
def test_wrong_type_is_named(complete, place, value, message):
    content = complete.to_json()
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        RunResult.from_json(content)


def test_number_that_is_not_finite_is_written_as_null(complete, tmp_path):
    complete.runs[1].training_log[0].grad_norm = math.inf
    loaded = RunResult.load(complete.save(tmp_path / "result.json"))
    assert loaded.runs[1].training_log[0].grad_norm is None


def dataclasses_below(cls, found):
    if cls in found:
        return
    found.add(cls)
    for hint in typing.get_type_hints(cls).values():
        for part in (hint, *typing.get_args(hint)):
            for inner in (part, *typing.get_args(part)):
                if dataclasses.is_dataclass(inner):
                    dataclasses_below(inner, found)


def test_schema_page_names_every_field_and_the_version():
    page = SCHEMA_PAGE.read_text(encoding="utf-8")
    found: set[type] = set()
    dataclasses_below(RunResult, found)
    assert len(found) == 19
    names = {field.name for cls in found for field in dataclasses.fields(cls)}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    assert f"`schema_version` is `{SCHEMA_VERSION}`" in page


def test_summary_pairs_by_seed_whatever_the_order_of_runs():
    runs = [training_run("plain", seed, new=metrics(value)) for seed, value in ((3, 0.6), (1, 0.5), (2, 0.4))]
    runs += [training_run("lwf", seed, new=metrics(value)) for seed, value in ((1, 0.6), (4, 0.9), (3, 0.7))]
    task = summarise(runs).tasks["new"]
    assert task.difference.n == 2
    assert task.difference.difference == pytest.approx(0.1)
    assert task.difference.sd == pytest.approx(0.0, abs=1e-12)
    assert task.arms["plain"].mean == pytest.approx(0.5)
    assert task.arms["plain"].sd == pytest.approx(0.1)
    assert task.arms["plain"].seeds == [3, 1, 2]
    assert task.gap is None


def test_summary_without_a_shared_seed_compares_nothing():
    task = summarise([training_run("plain", 1, new=metrics(0.5)), training_run("lwf", 2, new=metrics(0.6))])
    assert task.tasks["new"].difference is None


def test_summary_gap_counts_towards_better_whatever_the_direction_of_the_metric():
    def of(arm, seed, value):
        return training_run(arm, seed, new=metrics(None, nll_per_token=value))

    runs = [of("plain", 1, 2.0), of("lwf", 1, 1.75), of("never_knew", 1, 1.0)]
    task = summarise(runs).tasks["new"]
    assert task.metric == "nll_per_token"
    assert not task.higher_is_better
    assert task.difference.difference == pytest.approx(-0.25)
    assert task.gap.fraction == pytest.approx(0.25)


def test_summary_uses_a_metric_that_all_runs_have():
    runs = [
        training_run("plain", 1, new=metrics(0.5, bits_per_byte=1.0)),
        training_run("lwf", 1, new=metrics(None, bits_per_byte=0.5)),
    ]
    assert summarise(runs).tasks["new"].metric == "bits_per_byte"
    runs[0].metrics["new"].bits_per_byte = None
    with pytest.raises(ValueError, match="share no metric on task 'new'"):
        summarise(runs)


def test_summary_refuses_a_repeated_seed_and_a_changing_role():
    with pytest.raises(ValueError, match="arm 'lwf' with seed 1 twice"):
        summarise([training_run("lwf", 1, new=metrics(0.5)), training_run("lwf", 1, new=metrics(0.5))])
    with pytest.raises(ValueError, match="role of task 'new': forgetting, learning"):
        summarise(
            [
                training_run("plain", 1, new=metrics(0.5)),
                training_run("lwf", 1, new=metrics(0.5, "forgetting")),
            ]
        )


def test_provenance_records_versions_and_hides_credentials():
    provenance = collect_provenance(
        model_fingerprint="m",
        data_fingerprints={},
        posterior_fingerprint="p",
        seeds=range(3),
        command_line=["graceful", "--hub_token", "secret-1", "--token=secret-2", "--eos_token", "</s>"],
    )
    assert provenance.packages["torch"].startswith("2")
    assert provenance.hardware.memory_bytes > 2**28
    assert provenance.hardware.cpu_count >= 1
    assert provenance.hardware.processor.endswith(torch.backends.cpu.get_cpu_capability())
    assert provenance.seeds == [0, 1, 2]
    assert provenance.command_line == [
        "graceful",
        "--hub_token",
        "<hidden>",
        "--token=<hidden>",
        "--eos_token",
        "</s>",
    ]


def test_settings_become_json_values_without_credentials():
    class Colour(Enum):
        RED = "red"

    settings = {
        "hub_token": "s",
        "token": None,
        "eos_token": "</s>",
        "path": Path("a/b"),
        "c": Colour.RED,
        "n": (1, 2),
    }
    assert public_settings(settings) == {
        "hub_token": "<hidden>",
        "token": None,
        "eos_token": "</s>",
        "path": "a/b",
        "c": "red",
        "n": [1, 2],
    }


def test_peak_memory_sees_memory_that_was_used_and_freed():
    reset_peak_memory()
    block = bytearray(b"x") * (2**28)
    while_used = psutil.Process().memory_info().rss
    del block
    freed = while_used - psutil.Process().memory_info().rss
    assert freed > 2**27
    # The kernel counts resident memory per thread in batches, hence a little room.
    assert peak_memory().process_bytes > while_used - freed / 4
