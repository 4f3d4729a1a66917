"""The command `graceful`: every stage and the whole run from one recipe."""

import argparse
import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graceful_forgetting.launching import launch, launch_parser

# TRL and transformers read these when imported. Nothing here reaches the network unless a recipe names a hub model or
# data set, and telemetry is neither.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_DISABLE_TELEMETRY", "1")

# Of several processes of one launch, the first one talks.
RANK = int(os.environ.get("RANK", "0"))
if RANK > 0:
    os.environ.setdefault("TQDM_DISABLE", "1")

DEMO_RECIPE = Path(__file__).parent / "experiment" / "demo.yaml"

# Command -> (stages it runs, help)
STAGES = {
    "run": "every stage: elicit, posterior, score, select, train, evaluate, report",
    "elicit": "let the base model answer the forgetting prompts",
    "posterior": "reference run and Fisher information of the learning task",
    "score": "forgetting confidence of the self-knowledge",
    "select": "choose what is unlearned",
    "train": "fine-tune with unlearning, and the plain and never-knew arms",
    "evaluate": "test every arm on every task",
    "report": "result.json and report.html",
}
# Commands that take every field of a recipe as a flag.
WITH_RECIPE = {*STAGES, "demo", "advise", "base"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 training failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command not in WITH_RECIPE and rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    _configure_logging(options.verbose)
    try:
        if options.command in STAGES:
            exit_code = launch("graceful_forgetting.cli", arguments)
            if exit_code is not None:
                return exit_code
        options.action(options, rest)
        return 0
    except KeyboardInterrupt:
        _say("\nInterrupted. Finished stages and checkpoints are kept: the same command continues from there.")
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        if options.verbose:
            traceback.print_exc()
        _say(f"graceful {options.command}: error: {error}")
        return 2
    except (RuntimeError, ArithmeticError) as error:
        if options.verbose:
            traceback.print_exc()
        _say(f"graceful {options.command}: failed: {error}")
        return 1


def _say(text: str) -> None:
    print(text if RANK == 0 else f"(process {RANK}) {text}", file=sys.stderr, flush=True)


def _announce(text: str) -> None:
    if RANK == 0:
        print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graceful",
        description="Learning With Forgetting: fine-tune a language model while it unlearns what gets in the way.",
        epilog="graceful run --config recipe.yaml --unlearn_every 10",
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--verbose", action="store_true", help="show log messages, and tracebacks of errors")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(
        name: str,
        action: Callable[[argparse.Namespace, list[str]], None],
        help: str,
        parents: Sequence[argparse.ArgumentParser] = (),
    ) -> argparse.ArgumentParser:
        epilog = "Every field of a recipe is a flag as well (--unlearn_every 10); `graceful fields` lists them."
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            parents=[shared, *parents],
            allow_abbrev=False,
            epilog=epilog if name in WITH_RECIPE else None,
        )
        command.set_defaults(action=action)
        return command

    add("demo", _demo, "the whole method on the embedded world, in minutes")
    for name, text in STAGES.items():
        stage = add(name, _stage, text, [launch_parser()])
        stage.add_argument("--config", help="recipe (YAML); flags beat its fields")
        if name == "report":
            stage.add_argument("--sweep", help="folder of a sweep, or an archive of one, to report in place of a run")
            stage.add_argument("--archive", help="with --sweep: write all cells into this file (JSON lines)")
    advise = add("advise", _advise, "from the scores: whether forgetting is expected to help, and why")
    advise.add_argument("--config", help="recipe (YAML); flags beat its fields")
    sweep = add("sweep", _sweep, "a grid of tasks, methods, settings and seeds; what is finished is skipped")
    sweep.add_argument("--config", required=True, help="grid (YAML); docs/sweeps.md has its keys")
    sweep.add_argument("--output_dir", help="folder of the sweep, in place of the grid's own")
    sweep.add_argument("--jobs", type=int, default=1, help="cells at once, each in a process of its own")
    sweep.add_argument("--cluster", help="cells as jobs of a scheduler: slurm, or local; needs the extra cluster")
    sweep.add_argument(
        "--cluster_parameters", nargs="+", default=[], metavar="NAME=VALUE", help="of a job, as submitit names them"
    )
    sweep.add_argument("--dry_run", action="store_true", help="check the grid and list its cells")
    add("fields", _fields, "every field of a recipe, its default and its meaning")
    world = add("world", _world, "worlds with known ground truth: list them, or build their models")
    verbs = world.add_subparsers(dest="verb", required=True, metavar="verb")
    verbs.add_parser("list", help="name and description of every world")
    build = verbs.add_parser("build", help="pre-train a world's models", allow_abbrev=False)
    build.add_argument("name", help="of the world")
    build.add_argument("--output_dir", required=True)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--pretraining_steps", type=int, help="updates of the pre-training; unset: the world's own")
    build.add_argument("--label_noise", type=float, help="share of mislabelled answers; unset: the world's own")
    build.add_argument("--overwrite", action="store_true", help="replace an earlier build in --output_dir")
    base = add("base", _base, "build a small base model from any folder of text")
    base.add_argument("verb", choices=["build"])
    base.add_argument("--config", help="recipe (YAML); flags beat its fields")
    bench = add("bench", _bench, "speed and memory of the scorer against its alternatives, on this machine")
    bench.add_argument("subject", choices=["confidence"])
    bench.add_argument("--tokens", type=int, nargs="+", default=[24, 96, 256], help="lengths of the samples")
    bench.add_argument("--batch_size", type=int, default=16)
    bench.add_argument("--repetitions", type=int, default=9)
    bench.add_argument("--threads", type=int, default=2)
    bench.add_argument("--output", default="bench-confidence.json", help="where the numbers go, as JSON")
    tasks = add("tasks", _tasks, "the known tasks, or their export to lm-evaluation-harness")
    verbs = tasks.add_subparsers(dest="verb", required=True, metavar="verb")
    verbs.add_parser("list", help="every known task, its metric, licence and data set on the hub")
    export = verbs.add_parser("export", help="write tasks as YAML and JSONL of lm-evaluation-harness")
    export.add_argument("folder", help="new folder, or one of an earlier export")
    export.add_argument("--tasks", nargs="+", required=True, help="names or paths, as in a recipe")
    export.add_argument("--data_source", default="hub", help="as in a recipe: hub, sample or a folder")
    export.add_argument("--limit", type=int, help="test rows of each task, drawn by --seed; unset: all")
    export.add_argument("--seed", type=int, default=42)
    add("env", _env, "versions and devices, for a bug report")
    return parser


def _configure_logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    if not verbose:
        transformers_logging.set_verbosity_error()


# Recipes -------------------------------------------------------------------------------------------------------------


def _fields(options: argparse.Namespace, rest: list[str]) -> None:
    del options, rest
    from trl import SFTConfig

    from graceful_forgetting.base_model import BaseModelConfig
    from graceful_forgetting.experiment.recipe import RECIPE_CLASSES

    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    for cls in RECIPE_CLASSES:
        _print_fields(cls.__name__, cls, inherited)
    print("and every field of trl.SFTConfig: https://huggingface.co/docs/trl/sft_trainer#trl.SFTConfig")
    _print_fields("graceful base build", BaseModelConfig, set())


def _print_fields(title: str, cls: type, hidden: set[str]) -> None:
    print(f"{title}:")
    for field in dataclasses.fields(cls):
        if field.init and field.name not in hidden:
            default = "" if field.default is dataclasses.MISSING else f" [{field.default}]"
            print(f"  {field.name}{default}: {field.metadata.get('help', '')}")


# Commands ------------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace, rest: list[str]) -> None:
    options.config = str(DEMO_RECIPE)
    options.command = "run"
    _stage(options, rest)


def _stage(options: argparse.Namespace, rest: list[str]) -> None:
    if options.command == "report" and options.sweep is not None:
        if rest or options.config is not None:
            raise ValueError("--sweep reports a finished sweep and takes no recipe: leave out --config and its fields")
        _report_sweep(Path(options.sweep), options.archive)
        return
    from graceful_forgetting.experiment.pipeline import Pipeline
    from graceful_forgetting.experiment.recipe import parse_recipe

    run, lwf, model = parse_recipe(options.config, rest)

    pipeline = Pipeline(run, lwf, model, announce=_announce)
    last = "report" if options.command == "run" else options.command
    steps: dict[str, Callable[[], object]] = {
        "elicit": pipeline.self_knowledge,
        "posterior": pipeline.posterior,
        "score": pipeline.scores,
        "select": pipeline.selection,
        "train": pipeline.train,
        "evaluate": pipeline.evaluate,
        "report": lambda: _report(pipeline),
    }
    # One stage asks for those that it reads and no more; the report reads all, the posterior if anything does.
    everything = [name for name in steps if name != "posterior" or pipeline.needs_posterior]
    for name in everything if last == "report" else [last]:
        steps[name]()


def _report(pipeline: Any) -> None:
    from graceful_forgetting.experiment.assemble import assemble_result
    from graceful_forgetting.experiment.table import summary_table
    from graceful_forgetting.report import render_report

    result, samples = assemble_result(pipeline)
    if RANK > 0:
        return
    folder = pipeline.directory.path
    result.save(folder / "result.json")
    report = render_report(result, samples, folder / "report.html")
    print()
    print(summary_table(result))
    print()
    print(f"result: {folder / 'result.json'}")
    print(f"report: {Path(report).resolve()}")


def _cluster_parameters(cluster: str | None, given: Sequence[str]) -> dict[str, Any]:
    import yaml

    if given and cluster is None:
        raise ValueError("--cluster_parameters needs --cluster")
    for parameter in given:
        if "=" not in parameter:
            raise ValueError(f"--cluster_parameters: {parameter!r} must be NAME=VALUE (gpus_per_node=1)")
    return {name: yaml.safe_load(value) for name, _, value in (parameter.partition("=") for parameter in given)}


def _sweep(options: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from graceful_forgetting.experiment.sweep.grid import load_grid
    from graceful_forgetting.experiment.sweep.run import Sweep

    grid = load_grid(options.config)
    if options.output_dir is not None:
        grid = dataclasses.replace(grid, output_dir=options.output_dir)
    parameters = _cluster_parameters(options.cluster, options.cluster_parameters)
    sweep = Sweep(grid, options.jobs, _announce, options.verbose, options.cluster, parameters)
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
    from graceful_forgetting.artifacts import write_text
    from graceful_forgetting.experiment.sweep.archive import read_archive, write_archive
    from graceful_forgetting.experiment.sweep.run import load_cells
    from graceful_forgetting.experiment.sweep.tables import markdown_document, sweep_tables
    from graceful_forgetting.report import render_sweep

    cells = read_archive(folder) if folder.is_file() else load_cells(folder)
    place = folder.parent if folder.is_file() else folder
    if archive is not None:
        write_archive(cells, archive)
        print(f"archive: {Path(archive).resolve()}")
    tables = place / "tables.md"
    write_text(tables, markdown_document(cells[0].sweep, cells))
    report = render_sweep(cells, place / "report.html")
    print(f"\n{sweep_tables(cells)[0].markdown()}\n")
    print(f"tables: {tables.resolve()}")
    print(f"report: {report.resolve()}")


def _advise(options: argparse.Namespace, rest: list[str]) -> None:
    from datasets import load_from_disk

    from graceful_forgetting.experiment.advice import advice_text, advise, gather_evidence
    from graceful_forgetting.experiment.pipeline import Pipeline
    from graceful_forgetting.experiment.recipe import parse_recipe
    from graceful_forgetting.preparation import TASK_COLUMN

    pipeline = Pipeline(*parse_recipe(options.config, rest), announce=_announce)
    scored = load_from_disk(str(pipeline.scores().path / "rows"))
    chosen = set(load_from_disk(str(pipeline.selection().path / "rows"))["source_index"])
    interference = pipeline.interference()
    changes = None
    if interference is not None:
        losses = load_from_disk(str(interference.path / "rows"))
        changes = [
            None if before is None or after is None else after - before
            for before, after in zip(losses["loss"], losses["reference_loss"], strict=True)
        ]
    columns = {
        name: list(scored[name])
        for name in ("forgetting_confidence", "confidence_quadratic", "step_size", "step_size_crossover")
    }
    evidence = gather_evidence(columns, scored[TASK_COLUMN], [i in chosen for i in range(len(scored))], changes)
    print(f"\n{advice_text(evidence, advise(evidence))}")


def _world(options: argparse.Namespace, rest: list[str]) -> None:
    del rest
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


def _base(options: argparse.Namespace, rest: list[str]) -> None:
    from graceful_forgetting.base_model import BaseModelConfig, build_base_model
    from graceful_forgetting.experiment.recipe import parse_fields

    (config,) = parse_fields((BaseModelConfig,), options.config, rest)
    print(f"written: {build_base_model(config, announce=_announce)}")


def _tasks(options: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from graceful_forgetting.tasks import export_tasks
    from graceful_forgetting.tasks.catalogue import task_table

    if options.verb == "list":
        print(task_table())
        return
    for path in export_tasks(
        options.folder, options.tasks, data_source=options.data_source, limit=options.limit, seed=options.seed
    ):
        print(f"written: {path}")


def _bench(options: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from graceful_forgetting.artifacts import write_json
    from graceful_forgetting.bench.confidence import benchmark_confidence, table
    from graceful_forgetting.bench.methods import Setting
    from graceful_forgetting.bench.subsets import subset_correlations, subset_table

    for name in ("batch_size", "threads"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be 1 or more")
    if min(options.tokens) < 4:
        raise ValueError(f"--tokens is {min(options.tokens)}; samples need 4 tokens or more")
    settings = [Setting(n, prompt, options.batch_size) for n in options.tokens for prompt in (0, n // 2)]
    settings.append(Setting(min(options.tokens), 0, options.batch_size, tied=True))
    result = benchmark_confidence(settings, repetitions=options.repetitions, threads=options.threads)
    result["subsets"] = subset_correlations()
    write_json(options.output, result)
    print(f"{table(result)}\n\n{subset_table(result['subsets'])}")
    print(f"\nwritten: {options.output}")


def _env(options: argparse.Namespace, rest: list[str]) -> None:
    del options, rest
    import platform

    from graceful_forgetting.experiment.provenance import collect_hardware, git_commit, package_versions

    for name, number in package_versions().items():
        print(f"- {name}: {number}")
    hardware = collect_hardware()
    print(f"- Python: {platform.python_version()}")
    print(f"- platform: {platform.platform()}")
    print(f"- commit: {git_commit() or 'not a checkout'}")
    print(f"- CPUs: {hardware.cpu_count} (torch uses {hardware.torch_threads})")
    print(f"- memory: {hardware.memory_bytes / 2**30:.1f} GiB")
    for device in hardware.devices:
        print(f"- device: {device.name}, {device.memory_bytes / 2**30:.1f} GiB")
    if not hardware.devices:
        print("- device: none beside the CPU")


if __name__ == "__main__":
    sys.exit(main())
