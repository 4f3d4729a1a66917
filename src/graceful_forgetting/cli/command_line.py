"""The command `graceful`: every stage and the whole run from one recipe."""

import argparse
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from graceful_forgetting.cli import commands
from graceful_forgetting.cli.commands import RANK
from graceful_forgetting.cli.launching import launch, launch_parser
from graceful_forgetting.runtime.secrets import SecretsFilter, without_secrets
from graceful_forgetting.runtime.termination import EXIT_CODE, Terminated, ends_on_sigterm

# Libraries read these when imported. Nothing here reaches the network unless a recipe names a hub model or
# data set, and telemetry is neither.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_DISABLE_TELEMETRY", "1")
# No bars but ours: these are of rows and weights that are read.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Of several processes of one launch, the first one talks.
if RANK > 0:
    os.environ.setdefault("TQDM_DISABLE", "1")

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
# Stages that every arm goes through.
COMPARING = {"run", "train", "evaluate", "report"}
# Commands that take every field of a recipe as a flag.
WITH_RECIPE = {*STAGES, "demo", "advise", "base"}
# Commands that an interruption costs nothing but the stage, the cell or the steps since the last checkpoint.
RESUMABLE = {*WITH_RECIPE, "sweep"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0: done. 1: failed (a loss that is not finite, cells of a sweep). 2: bad usage or input, a disk that is full or
    read-only, also where argparse ends the process itself. 130: interrupted. 141: nobody reads the output any more.
    143: terminated.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command not in WITH_RECIPE and rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    options.rest = rest
    _configure_output(options.verbose, options.quiet)
    try:
        with ends_on_sigterm(_say_from_handler):
            return _run(options, arguments)
    except Terminated:
        _say(f"\nTerminated.{_kept(options.command)}")
        return EXIT_CODE


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    """The exit code of the command, see `main`."""
    try:
        if options.command in STAGES:
            exit_code = launch("graceful_forgetting.cli", arguments)
            if exit_code is not None:
                return exit_code
        options.action(options)
        return 0
    except KeyboardInterrupt:
        _say(f"\nInterrupted.{_kept(options.command)}")
        return 130
    except BrokenPipeError:
        # What is still buffered for the closed pipe has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError) as error:
        if options.verbose:
            traceback.print_exc()
        failed = _failed(error)
        _say(f"graceful {options.command}: {'failed' if failed else 'error'}: {error}")
        return 1 if failed else 2


def _kept(command: str) -> str:
    if command not in RESUMABLE:
        return ""
    return " Finished stages and checkpoints are kept: the same command continues from there."


def _failed(error: Exception) -> bool:
    """Whether the work went wrong, and not what it was asked for: no other input would have helped."""
    if isinstance(error, OSError):
        return error.errno in (errno.EIO, errno.ENOMEM, errno.EMFILE)
    return isinstance(error, RuntimeError | ArithmeticError)


def _say(text: str) -> None:
    text = without_secrets(text)
    print(text if RANK == 0 else f"(process {RANK}) {text}", file=sys.stderr, flush=True)


def _say_from_handler(text: str) -> None:
    # A signal handler may have interrupted a print, which cannot be entered twice.
    if RANK == 0:
        os.write(2, f"{text}\n".encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="graceful",
        description="Learning With Forgetting: fine-tune a language model while it unlearns what gets in the way.",
        epilog="graceful run --config recipe.yaml --unlearn_every 10",
    )
    shared = argparse.ArgumentParser(add_help=False)
    loudness = shared.add_mutually_exclusive_group()
    loudness.add_argument("--verbose", action="store_true", help="show log messages, and tracebacks of errors")
    loudness.add_argument("--quiet", action="store_true", help="show results and errors only: no stages, no progress")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(
        name: str,
        action: Callable[[argparse.Namespace], None],
        help: str,
        parents: Sequence[argparse.ArgumentParser] = (),
    ) -> argparse.ArgumentParser:
        epilog = "Every field of a recipe is a flag as well (--unlearn_every 10); `graceful fields` lists them."
        command = subparsers.add_parser(
            name,
            help=help,
            description=help,
            parents=[shared, *parents],
            allow_abbrev=False,
            epilog=epilog if name in WITH_RECIPE else None,
        )
        command.set_defaults(action=action)
        return command

    redoing = argparse.ArgumentParser(add_help=False)
    redoing.add_argument("--force", action="store_true", help="redo every stage, whatever the run directory holds")
    demo = add("demo", commands.demo, "the whole method on the embedded world, in minutes", [redoing])
    _add_compare_with(demo, ["interference"])
    for name, text in STAGES.items():
        stage = add(name, commands.stage, text, [launch_parser(), redoing])
        stage.add_argument("--config", help="recipe (YAML); flags beat its fields")
        if name in COMPARING:
            _add_compare_with(stage, [])
        else:
            stage.set_defaults(compare_with=[])
        if name == "report":
            stage.add_argument("--sweep", help="folder of a sweep, or an archive of one, to report in place of a run")
            stage.add_argument("--archive", help="with --sweep: write all cells into this file (JSON lines)")
    compare = add("compare", commands.compare, "finished runs side by side in one HTML file")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="folder (output_dir) or result.json of a finished run")
    compare.add_argument("--output", default="comparison.html", help="where the page goes, with its folder")
    advise = add(
        "advise", commands.advise, "from the scores: whether forgetting is expected to help, and why", [redoing]
    )
    advise.add_argument("--config", help="recipe (YAML), of which what is missing is made; flags beat its fields")
    advise.add_argument(
        "--output_dir", help="without a recipe: a run that has been scored, of `graceful run` or an LWFTrainer"
    )
    sweep = add("sweep", commands.sweep, "a grid of tasks, methods, settings and seeds; what is finished is skipped")
    sweep.add_argument("--config", required=True, help="grid (YAML); docs/sweeps.md has its keys")
    sweep.add_argument("--output_dir", help="folder of the sweep, in place of the grid's own")
    sweep.add_argument("--learning", nargs="+", metavar="NAME", help="the cells that learn one of these alone")
    sweep.add_argument("--jobs", type=int, default=1, help="cells at once, each in a process of its own")
    sweep.add_argument("--cluster", help="cells as jobs of a scheduler: slurm, or local; needs the extra cluster")
    sweep.add_argument(
        "--cluster_parameters", nargs="+", default=[], metavar="NAME=VALUE", help="of a job, as submitit names them"
    )
    sweep.add_argument("--dry_run", action="store_true", help="check the grid and list its cells")
    fields = add("fields", commands.fields, "every field of a recipe, its default and its meaning")
    fields.add_argument("words", nargs="*", metavar="WORD", help="only fields with all words in their name or help")
    world = add("world", commands.world, "worlds with known ground truth: list them, or build their models")
    verbs = world.add_subparsers(dest="verb", required=True, metavar="verb")
    verbs.add_parser("list", help="name and description of every world")
    build = verbs.add_parser("build", help="pre-train a world's models", allow_abbrev=False)
    build.add_argument("name", help="of the world")
    build.add_argument("--output_dir", required=True)
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--pretraining_steps", type=int, help="updates of the pre-training; unset: the world's own")
    build.add_argument("--label_noise", type=float, help="share of mislabelled answers; unset: the world's own")
    build.add_argument("--overwrite", action="store_true", help="replace an earlier build in --output_dir")
    base = add("base", commands.base, "build a small base model from any folder of text")
    base.add_argument("verb", choices=["build"])
    base.add_argument("--config", help="recipe (YAML); flags beat its fields")
    bench = add("bench", commands.bench, "speed and memory of the scorer against its alternatives, on this machine")
    bench.add_argument("subject", choices=["confidence"])
    bench.add_argument(
        "--shapes",
        nargs="+",
        choices=["7M", "135M"],
        default=["7M"],
        help="models; 135M, of SmolLM2, takes many minutes",
    )
    bench.add_argument("--tokens", type=int, nargs="+", default=[24, 96, 256], help="lengths of the samples, with 7M")
    bench.add_argument("--batch_size", type=int, default=16, help="with 7M; 135M scores 8 samples of 48 tokens")
    bench.add_argument("--repetitions", type=int, default=9)
    bench.add_argument("--threads", type=int, default=2)
    bench.add_argument("--output", default="bench-confidence.json", help="where the numbers go, as JSON")
    tasks = add("tasks", commands.tasks, "the known tasks, or their export to lm-evaluation-harness")
    verbs = tasks.add_subparsers(dest="verb", required=True, metavar="verb")
    verbs.add_parser("list", help="every known task, its metric, licence and data set on the hub")
    export = verbs.add_parser("export", help="write tasks as YAML and JSONL of lm-evaluation-harness")
    export.add_argument("folder", help="new folder, or one of an earlier export")
    export.add_argument("--tasks", nargs="+", required=True, help="names or paths, as in a recipe")
    export.add_argument("--data_source", default="hub", help="as in a recipe: hub, sample or a folder")
    export.add_argument("--limit", type=int, help="test rows of each task, drawn by --seed; unset: all")
    export.add_argument("--seed", type=int, default=42)
    add("env", commands.env, "versions and devices, and whether scores depend on the batch; for a bug report")
    return parser


def _add_compare_with(parser: argparse.ArgumentParser, default: list[str]) -> None:
    # No choices: the modules that know the methods take seconds to import.
    said = f"; {' '.join(default)} if not given" if default else ""
    parser.add_argument(
        "--compare_with",
        nargs="*",
        default=default,
        metavar="METHOD",
        help=f"named methods to train as further arms{said}",
    )


def _configure_output(verbose: bool, quiet: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(SecretsFilter())
    if quiet:
        # Read by `progress_allowed`, in the processes of a launch or sweep too.
        os.environ["TQDM_DISABLE"] = "1"
    if not verbose:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:
        # Who calls from Python may have imported it, and with it what the variables say.
        from datasets.utils.logging import disable_progress_bar
        from transformers.utils import logging as transformers_logging

        disable_progress_bar()
        transformers_logging.disable_progress_bar()
        if not verbose:
            transformers_logging.set_verbosity_error()
    if not verbose:
        # Of what libraries will change: of use to those who write against them.
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
