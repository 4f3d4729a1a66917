"""The command `graceful`: every stage and the whole run from one recipe."""

import argparse
import dataclasses
import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# TRL and transformers read these when imported. Nothing here reaches the network unless a recipe names a hub model or
# data set, and telemetry is neither.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_DISABLE_TELEMETRY", "1")

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 training failed, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command not in {*STAGES, "demo", "base"} and rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    _configure_logging(options.verbose)
    try:
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
    print(text, file=sys.stderr, flush=True)


def _announce(text: str) -> None:
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

    def add(name: str, action: Callable[[argparse.Namespace, list[str]], None], help: str) -> argparse.ArgumentParser:
        epilog = "Every field of a recipe is a flag as well (--unlearn_every 10); `graceful fields` lists them."
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            parents=[shared],
            allow_abbrev=False,
            epilog=epilog if name in {*STAGES, "demo", "base"} else None,
        )
        command.set_defaults(action=action)
        return command

    add("demo", _demo, "the whole method on the embedded world, in minutes")
    for name, text in STAGES.items():
        add(name, _stage, text).add_argument("--config", help="recipe (YAML); flags beat its fields")
    add("fields", _fields, "every field of a recipe, its default and its meaning")
    world = add("world", _world, "build the models of a world with known ground truth")
    world.add_argument("verb", choices=["build"])
    world.add_argument("name", help="shortcut")
    world.add_argument("--output_dir", required=True)
    world.add_argument("--seed", type=int, default=0)
    world.add_argument("--overwrite", action="store_true", help="replace an earlier build in --output_dir")
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


def _recipe_classes() -> tuple[type, ...]:
    from graceful_forgetting.config import LWFConfig
    from graceful_forgetting.experiment.arguments import RunArguments
    from graceful_forgetting.experiment.models import ModelArguments

    return RunArguments, LWFConfig, ModelArguments


def parse_recipe(config: str | None, flags: Sequence[str], classes: tuple[type, ...] | None = None) -> tuple[Any, ...]:
    """One object of each class from a YAML file and flags, which beat it.

    Args:
        config: path of the file; none for flags alone.
        flags: of the command line.
        classes: dataclasses; none for those of a run: RunArguments, LWFConfig, ModelArguments.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a field that does not exist (names the nearest), or a value that is not valid.
    """
    import yaml
    from trl import TrlParser

    classes = classes or _recipe_classes()
    known = {field.name for cls in classes for field in dataclasses.fields(cls) if field.init}
    if config is not None:
        path = Path(config)
        if not path.is_file():
            raise FileNotFoundError(f"--config {config}: there is no such file")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"--config {config} is not valid YAML: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"--config {config} must hold fields and values (`learning_rate: 1e-4`)")
        for name in content:
            _check_field(str(name), known | {"env"}, f"--config {config}")
    for flag in flags:
        if flag.startswith("--"):
            name = flag[2:].split("=", 1)[0].replace("-", "_")
            _check_field(name.removeprefix("no_") if name not in known else name, known, "the command line")
    arguments = [*(["--config", config] if config is not None else []), *flags]
    try:
        return TrlParser(classes, allow_abbrev=False).parse_args_and_config(arguments)
    except SystemExit as error:
        raise ValueError("the fields above are not valid; `graceful fields` lists them") from error


def _check_field(name: str, known: set[str], where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`graceful fields` lists all."
        raise ValueError(f"unknown field {name!r} in {where}: {hint}")


def _fields(options: argparse.Namespace, rest: list[str]) -> None:
    del options, rest
    from trl import SFTConfig

    from graceful_forgetting.base_model import BaseModelConfig

    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    for cls in _recipe_classes():
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
    run, lwf, model = parse_recipe(options.config, rest)
    from graceful_forgetting.experiment.pipeline import Pipeline

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
    folder = pipeline.directory.path
    result.save(folder / "result.json")
    report = render_report(result, samples, folder / "report.html")
    print()
    print(summary_table(result))
    print()
    print(f"result: {folder / 'result.json'}")
    print(f"report: {Path(report).resolve()}")


def _world(options: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from graceful_forgetting.worlds import build_world

    path = build_world(options.name, options.output_dir, seed=options.seed, overwrite=options.overwrite)
    print(f"written: {path}")


def _base(options: argparse.Namespace, rest: list[str]) -> None:
    from graceful_forgetting.base_model import BaseModelConfig, build_base_model

    (config,) = parse_recipe(options.config, rest, (BaseModelConfig,))
    print(f"written: {build_base_model(config, announce=_announce)}")


def _bench(options: argparse.Namespace, rest: list[str]) -> None:
    del rest
    from graceful_forgetting.artifacts import write_json
    from graceful_forgetting.bench.confidence import benchmark_confidence, table
    from graceful_forgetting.bench.methods import Setting

    for name in ("batch_size", "threads"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; it must be 1 or more")
    if min(options.tokens) < 4:
        raise ValueError(f"--tokens is {min(options.tokens)}; samples need 4 tokens or more")
    settings = [Setting(n, prompt, options.batch_size) for n in options.tokens for prompt in (0, n // 2)]
    settings.append(Setting(min(options.tokens), 0, options.batch_size, tied=True))
    result = benchmark_confidence(settings, repetitions=options.repetitions, threads=options.threads)
    write_json(options.output, result)
    print(table(result))
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
