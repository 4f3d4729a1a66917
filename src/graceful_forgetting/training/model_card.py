"""What a model card says of unlearning: settings and numbers of the run."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import Environment, StrictUndefined
from trl import SFTConfig

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.results.arms import capitalised, method_title
from graceful_forgetting.runtime.artifacts import atomic_file
from graceful_forgetting.runtime.version import __version__
from graceful_forgetting.training.checks import unlearns
from graceful_forgetting.training.preparation import SCORE_COLUMN, TASK_COLUMN, Preparation
from graceful_forgetting.unlearning.fallback import SAME_ROWS

NAME = "LWF (Learning With Forgetting)"
TAGS = ("trl", "sft", "graceful-forgetting")
PAPER = {
    "title": "Graceful Forgetting in Generative Language Models",
    "id": "2505.19715",
    "citation": textwrap.dedent("""\
        @inproceedings{jiang2025graceful,
            title     = {{Graceful Forgetting in Generative Language Models}},
            author    = {Jiang, Chunyang and Chan, Chi-Min and Cai, Yiyang and Liu, Yulong and Xue, Wei and
                         Guo, Yike},
            year      = 2025,
            booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
        }"""),
}
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# Named in every card; other settings of the method where they differ from their defaults.
_ALWAYS = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "seed",
    "unlearn_every",
    "unlearn_schedule",
    "unlearn_objective",
    "unlearn_learning_rate",
    "per_device_unlearn_batch_size",
    "confidence_scorer",
    "confidence_step_size",
    "forget_strategy",
    "forget_fraction",
    "baseline",
)
# Of the machine that a run was on, and nobody else's business.
_PRIVATE = ("elicitation_server_url", "elicitation_server_api_key_env")
_LOGGED = {
    "loss": "learning loss",
    "unlearn_loss": "loss of what is unlearned",
}


def presentation(
    args: LWFConfig, forget_dataset: Dataset | None, preparation: Preparation | None
) -> tuple[str, Mapping[str, str], Sequence[str]]:
    """Name, paper and tags of what a run does: those of the paper's method where it is that.

    A forget_dataset that comes scored may be by any score, so that the settings do not name the method.
    """
    if not unlearns(args, forget_dataset, preparation) and args.baseline is None:
        return "SFT", {}, TAGS
    given = (
        {}
        if forget_dataset is None or SCORE_COLUMN not in forget_dataset.column_names
        else {"confidence_scorer": "given scores"}
    )
    title = method_title(vars(args) | given)
    return (NAME, PAPER, (*TAGS, "learning-with-forgetting")) if title == "LWF" else (title, {}, TAGS)


def add_section(card: Path, section: str) -> None:
    """Put a section into the card that TRL has written, before the versions of the packages."""
    before, heading, after = card.read_text(encoding="utf-8").partition("### Framework versions")
    with atomic_file(card) as partial:
        partial.write_text(f"{before}{section}\n{heading}{after}", encoding="utf-8")


def card_section(
    name: str,
    args: LWFConfig,
    samples: int,
    preparation: Preparation | None,
    log_history: Sequence[Mapping[str, float]],
    summary: Mapping[str, Any],
) -> str:
    """Markdown on what was forgotten, with what settings and to what effect.

    Args:
        name: of the method, as `presentation` has it.
        args: settings of the run.
        samples: how many were unlearned; 0 where nothing was.
        preparation: what they were selected from; none where that is not at hand, as in a resumed run.
        log_history: log of the Trainer.
        summary: `LWFTrainer.unlearning_summary()`.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    guard = summary["guard"]
    if guard["fell_back"]:
        # Of the weights that were kept.
        log_history = [] if preparation is None else preparation.plain_log
    return template.render(
        unlearned=samples > 0 and summary["updates"] > 0,
        method="Learning *with* forgetting" if name == NAME else _cell(capitalised(name)),
        samples=samples,
        baseline=args.baseline,
        scored=0 if preparation is None else len(preparation.scored),
        tasks=[] if preparation is None else _tasks(preparation),
        scorer=args.confidence_scorer,
        objective=args.unlearn_objective,
        updates=summary["updates"],
        guard=guard,
        fell_back=guard["fell_back"],
        numbers=_numbers(args, preparation, log_history, guard),
        same_rows=None if guard["held_out_loss"] is None else SAME_ROWS,
        settings=_settings(args),
        version=__version__,
    )


def _tasks(preparation: Preparation) -> list[dict[str, Any]]:
    counts = [Counter(map(str, rows[TASK_COLUMN])) for rows in (preparation.scored, preparation.selected)]
    return [{"name": _cell(name), "scored": counts[0][name], "selected": counts[1][name]} for name in sorted(counts[0])]


def _numbers(
    args: LWFConfig,
    preparation: Preparation | None,
    log_history: Sequence[Mapping[str, float]],
    guard: Mapping[str, Any],
) -> dict[str, str]:
    numbers: dict[str, str] = {}
    for key, meaning in _LOGGED.items():
        values = [entry[key] for entry in log_history if key in entry]
        if values:
            numbers[f"{meaning}, first logged"] = f"{values[0]:.4g}"
            numbers[f"{meaning}, last logged"] = f"{values[-1]:.4g}"
    if not guard["fell_back"]:
        numbers |= _compared_runs(args, preparation)
    evaluations = [entry for entry in log_history if any(key.startswith("eval_") for key in entry)]
    for key, value in (evaluations[-1] if evaluations else {}).items():
        if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second", "_num_tokens")):
            numbers[f"{_cell(key)}, last evaluation"] = f"{value:.4g}"
    if guard["held_out_loss"] is not None:
        ours, plain = f"{guard['held_out_loss']:.4g}", f"{guard['plain_held_out_loss']:.4g}"
        kept, other = (plain, ours) if guard["fell_back"] else (ours, plain)
        run = "the run that unlearned, rejected" if guard["fell_back"] else "plain fine-tuning"
        numbers |= {"held-out loss of these weights": kept, f"held-out loss of {run}": other}
    return numbers


def _compared_runs(args: LWFConfig, preparation: Preparation | None) -> dict[str, str]:
    """The last losses of the runs before training, each under the name of what it was."""
    if preparation is None:
        return {}
    whole = args.reference_share == 1
    logs = {"plain fine-tuning": preparation.plain_log or (preparation.reference_log if whole else [])}
    if not whole:
        logs[f"the reference run, which ended after {args.reference_share:g} of the updates"] = (
            preparation.reference_log
        )
    last = {run: [entry["loss"] for entry in log if "loss" in entry][-1:] for run, log in logs.items()}
    return {f"learning loss of {run}, last logged": f"{loss:.4g}" for run, losses in last.items() for loss in losses}


def _settings(args: LWFConfig) -> dict[str, str]:
    learning = {field.name for field in fields(SFTConfig)}
    changed = {
        field.name
        for field in fields(args)
        if field.name not in learning and field.name not in _PRIVATE and getattr(args, field.name) != field.default
    }
    shown = [*_ALWAYS, *sorted(changed - set(_ALWAYS))]
    values = {name: getattr(args, name) for name in shown} | {"per_device_unlearn_batch_size": args.unlearn_batch_size}
    return {name: _cell(value) for name, value in values.items() if value is not None}


def _cell(value: object) -> str:
    """Text that stays within one cell of a table and is no markup."""
    text = " ".join(str(value).split())
    for character in "\\`*_<>[]|":
        text = text.replace(character, f"\\{character}")
    return text
