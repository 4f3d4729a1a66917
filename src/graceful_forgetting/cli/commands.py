"""What each command of `graceful` does, from its parsed options; imports are made when a command runs.

`options.rest` has the arguments that are fields of a recipe.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

# Of several processes of one launch, the first one talks.
RANK = int(os.environ.get("RANK", "0"))
DEMO_RECIPE = Path(__file__).parents[1] / "runs" / "demo.yaml"


def _announcer(options: argparse.Namespace) -> Callable[[str], None]:
    """Prints one line; says nothing under --quiet, and in all processes of a launch but the first."""
    return (lambda _: None) if options.quiet or RANK > 0 else partial(print, flush=True)


def fields(options: argparse.Namespace) -> None:
    from graceful_forgetting.cli.fields import fields_text

    print(fields_text(options.words))


def demo(options: argparse.Namespace) -> None:
    options.config = str(DEMO_RECIPE)
    options.command = "run"
    stage(options)


def stage(options: argparse.Namespace) -> None:
    if options.command == "report" and options.sweep is not None:
        if options.rest or options.config is not None:
            raise ValueError("--sweep reports a finished sweep and takes no recipe: leave out --config and its fields")
        _report_sweep(Path(options.sweep), options.archive)
        return
    shown = "loading torch and transformers" if sys.stderr.isatty() and not options.quiet and RANK == 0 else ""
    print(end=shown, file=sys.stderr, flush=True)
    from graceful_forgetting.runs.pipeline import Pipeline
    from graceful_forgetting.runs.recipe import parse_recipe

    # Taken away as a bar is.
    print(end=f"\r{' ' * len(shown)}\r" if shown else "", file=sys.stderr, flush=True)

    run, lwf, model = parse_recipe(options.config, options.rest)
    last = "report" if options.command == "run" else options.command
    if last == "report":
        _claim_report(Path(lwf.output_dir))
    pipeline = Pipeline(run, lwf, model, announce=_announcer(options), force=options.force, others=options.compare_with)
    steps: dict[str, Callable[[], object]] = {
        "elicit": pipeline.method.self_knowledge,
        "posterior": pipeline.method.posterior,
        "score": pipeline.method.scores,
        "select": pipeline.method.selection,
        "train": pipeline.train,
        "evaluate": pipeline.evaluate,
        "report": lambda: _report(pipeline),
    }
    # One stage asks for those that it reads and no more; the report reads all, the posterior if anything does.
    everything = [name for name in steps if name != "posterior" or pipeline.method.scorer_needs_posterior]
    with closing(pipeline.directory):
        if options.command == "run":
            from graceful_forgetting.runs.price import announce_price

            announce_price(pipeline)
        for name in everything if last == "report" else [last]:
            steps[name]()


def _report_files() -> dict[str, bytes]:
    """The files that a report consists of, with what they begin with."""
    from graceful_forgetting.runtime.own_files import RESULT, page_sign

    return {"result.json": RESULT, "report.html": page_sign("report.html")}


def _claim_report(folder: Path) -> None:
    """Refuse, before any work, to replace what somebody else has put in the place of the report."""
    from graceful_forgetting.runtime.own_files import claim_file

    for name, sign in _report_files().items():
        claim_file(folder / name, sign)


def _report(pipeline: Any) -> None:
    from graceful_forgetting.report import render_report
    from graceful_forgetting.results.arms import method_title
    from graceful_forgetting.results.cost import cost_text
    from graceful_forgetting.results.table import summary_table
    from graceful_forgetting.runs.assemble import assemble_result
    from graceful_forgetting.runs.changed_answers import answers_text, changed_answers
    from graceful_forgetting.runtime.own_files import list_files

    result, samples = assemble_result(pipeline)
    answers = changed_answers(pipeline)
    if RANK > 0:
        return
    folder = pipeline.directory.path
    if not pipeline.directory.read_only:
        result.save(folder / "result.json")
        render_report(result, samples, folder / "report.html", answers)
        list_files(folder, _report_files())
    print()
    print(summary_table(result))
    print()
    changed = answers_text(answers, method_title(result.config))
    if changed:
        print(f"{changed}\n")
    cost = cost_text(result.stages, method_title(result.config))
    if cost:
        print(f"{cost}\n")
    if pipeline.directory.read_only:
        print(f"{folder} is read-only: its result.json and report.html stay as they are")
        return
    print(f"result: {folder / 'result.json'}")
    print(f"report: {(folder / 'report.html').resolve()}")


def compare(options: argparse.Namespace) -> None:
    from graceful_forgetting.report import render_comparison
    from graceful_forgetting.runs.finished_runs import load_runs
    from graceful_forgetting.runtime.own_files import claim_file, page_sign

    output = Path(options.output)
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f"--output {options.output}: name a file in a folder that exists")
    claim_file(output, page_sign("comparison.html"))
    print(f"comparison: {render_comparison(load_runs(options.runs), output).resolve()}")


def _cluster_parameters(cluster: str | None, given: Sequence[str]) -> dict[str, Any]:
    import yaml

    if given and cluster is None:
        raise ValueError("--cluster_parameters needs --cluster")
    for parameter in given:
        if "=" not in parameter:
            raise ValueError(f"--cluster_parameters: {parameter!r} must be NAME=VALUE (gpus_per_node=1)")
    return {name: yaml.safe_load(value) for name, _, value in (parameter.partition("=") for parameter in given)}


def sweep(options: argparse.Namespace) -> None:
    from graceful_forgetting.sweeps.grid_file import load_grid
    from graceful_forgetting.sweeps.run import Sweep

    grid = load_grid(options.config)
    if options.output_dir is not None:
        grid = dataclasses.replace(grid, output_dir=options.output_dir)
    if options.learning is not None:
        grid = grid.only(options.learning)
    parameters = _cluster_parameters(options.cluster, options.cluster_parameters)
    sweep = Sweep(grid, options.jobs, _announcer(options), options.verbose, options.cluster, parameters)
    if options.dry_run:
        for line in sweep.list_cells():
            print(line)
        return
    try:
        sweep.run()
    except RuntimeError:
        # Some cells failed: the report has the others.
        if (sweep.folder / "cells").is_dir():
            _report_sweep(sweep.folder, None)
        raise
    _report_sweep(sweep.folder, None)


def _report_sweep(folder: Path, archive: str | None) -> None:
    from graceful_forgetting.report import render_sweep
    from graceful_forgetting.runtime.artifacts import read_json, write_json, write_text
    from graceful_forgetting.runtime.own_files import CELL, TABLES, TUNING, claim_file, list_files, page_sign
    from graceful_forgetting.sweeps.archive import read_archive, write_archive
    from graceful_forgetting.sweeps.cell import load_cells
    from graceful_forgetting.sweeps.comparison import groups_of
    from graceful_forgetting.sweeps.grid import TUNING_FILE
    from graceful_forgetting.sweeps.tables import markdown_document, sweep_tables

    place = folder.parent if folder.is_file() else folder
    files = {"tables.md": TABLES, "report.html": page_sign("sweep.html")}
    for name, sign in files.items():
        claim_file(place / name, sign)
    if archive is not None:
        claim_file(archive, CELL)
        claim_file(Path(archive).with_suffix(f".{TUNING_FILE}"), TUNING)
    cells = read_archive(folder) if folder.is_file() else load_cells(folder)
    if archive is not None:
        write_archive(cells, archive)
        print(f"archive: {Path(archive).resolve()}")
        if (place / TUNING_FILE).is_file():
            tuning = Path(archive).with_suffix(f".{TUNING_FILE}")
            write_json(tuning, read_json(place / TUNING_FILE))
            print(f"what was tried and chosen: {tuning.resolve()}")
    groups = groups_of(cells)
    tables = sweep_tables(cells, groups)
    print(f"\n{tables[0].markdown()}\n")
    if not os.access(place, os.W_OK):
        print(f"{place} is read-only: its tables.md and report.html stay as they are")
        return
    write_text(place / "tables.md", f"{TABLES.decode()}\n{markdown_document(cells[0].sweep, tables)}")
    report = render_sweep(cells, groups, tables, place / "report.html")
    if folder.is_dir():
        list_files(folder, files)
    print(f"tables: {(place / 'tables.md').resolve()}")
    print(f"report: {report.resolve()}")


def advise(options: argparse.Namespace) -> None:
    from graceful_forgetting.runs.advice import advice_text, advise
    from graceful_forgetting.runs.run_evidence import evidence_of_run, outcome

    folder = options.output_dir
    if options.config is not None or options.rest:
        folder = _made_up_to_selection(options)
    elif folder is None:
        raise ValueError(
            "name what to judge: --output_dir, the folder of a run that has been scored, or --config, a recipe of "
            "which what is missing is made"
        )
    evidence = evidence_of_run(folder)
    print(f"\n{advice_text(evidence, advise(evidence), outcome(folder))}")


def _made_up_to_selection(options: argparse.Namespace) -> str:
    """Make what advice reads of a recipe; returns the run directory."""
    from graceful_forgetting.config.confidence import OF_LOSSES
    from graceful_forgetting.runs.pipeline import Pipeline
    from graceful_forgetting.runs.recipe import parse_recipe

    given = options.rest if options.output_dir is None else [*options.rest, "--output_dir", options.output_dir]
    pipeline = Pipeline(*parse_recipe(options.config, given), announce=_announcer(options), force=options.force)
    with closing(pipeline.directory):
        pipeline.method.selection()
        if pipeline.lwf.confidence_scorer not in OF_LOSSES and not pipeline.directory.read_only:
            pipeline.method.interference()
    return str(pipeline.directory.path)


def world(options: argparse.Namespace) -> None:
    from graceful_forgetting.worlds import WORLDS, Difficulty, build_world

    if options.verb == "list":
        for name, definition in WORLDS.items():
            print(f"{name:12} {definition.summary}")
        return
    difficulty = Difficulty(pretraining_steps=options.pretraining_steps, label_noise=options.label_noise)
    path = build_world(
        options.name, options.output_dir, options.seed, difficulty=difficulty, overwrite=options.overwrite
    )
    print(f"written: {path}")


def base(options: argparse.Namespace) -> None:
    from graceful_forgetting.lab.base_model import BaseModelConfig, build_base_model
    from graceful_forgetting.runs.recipe import parse_fields

    (config,) = parse_fields((BaseModelConfig,), options.config, options.rest)
    print(f"written: {build_base_model(config, announce=_announcer(options))}")


def tasks(options: argparse.Namespace) -> None:
    from graceful_forgetting.tasks import export_tasks
    from graceful_forgetting.tasks.catalogue import task_list

    if options.verb == "list":
        print(task_list())
        return
    for path in export_tasks(
        options.folder, options.tasks, data_source=options.data_source, limit=options.limit, seed=options.seed
    ):
        print(f"written: {path}")


def bench(options: argparse.Namespace) -> None:
    announce = _announcer(options)
    announce("loading what is measured ...")
    from graceful_forgetting.lab.bench.confidence import benchmark_confidence, table
    from graceful_forgetting.lab.bench.methods import Setting
    from graceful_forgetting.lab.bench.subsets import subset_correlations, subset_table
    from graceful_forgetting.runtime.artifacts import write_json
    from graceful_forgetting.runtime.own_files import BENCHMARK, claim_file

    claim_file(options.output, BENCHMARK)
    for name in ("batch_size", "threads"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be 1 or more")
    if min(options.tokens) < 4:
        raise ValueError(f"--tokens is {min(options.tokens)}; samples need 4 tokens or more")
    settings = []
    if "7M" in options.shapes:
        settings += [Setting(n, prompt, options.batch_size) for n in options.tokens for prompt in (0, n // 2)]
        settings.append(Setting(min(options.tokens), 0, options.batch_size, tied=True))
    if "135M" in options.shapes:
        settings.append(Setting(48, 0, 8, tied=True, shape="135M"))
    result = benchmark_confidence(settings, repetitions=options.repetitions, threads=options.threads, announce=announce)
    print(table(result))
    if "7M" in options.shapes:
        announce("scoring with parts of the parameters ...")
        result["subsets"] = subset_correlations()
        print(f"\n{subset_table(result['subsets'])}")
    write_json(options.output, result)
    print(f"\nwritten: {options.output}")


def env(options: argparse.Namespace) -> None:
    del options
    import platform

    import torch

    from graceful_forgetting.lab.bench.invariance import batch_report
    from graceful_forgetting.results.provenance import collect_hardware, git_commit, package_versions

    for name, number in package_versions().items():
        print(f"- {name}: {number}")
    hardware = collect_hardware()
    print(f"- Python: {platform.python_version()}")
    print(f"- platform: {platform.platform()}")
    print(f"- commit: {git_commit() or 'not a checkout'}")
    print(f"- CPUs: {hardware.cpu_count} (torch uses {hardware.torch_threads}), {hardware.processor}")
    print(f"- memory: {hardware.memory_bytes / 2**30:.1f} GiB")
    for device in hardware.devices:
        print(f"- device: {device.name}, {device.memory_bytes / 2**30:.1f} GiB")
    if not hardware.devices:
        print("- device: none beside the CPU")
    for line in batch_report(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        print(f"- batches, {line}", flush=True)
