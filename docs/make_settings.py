"""Writes docs/reference/settings.md: every setting, from the dataclasses and their help texts.

python docs/make_settings.py          write the page
python docs/make_settings.py --check  exit with 1 if that would change it
"""

import dataclasses
import html
import inspect
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from trl import SFTConfig

from graceful_forgetting.config import (
    BaselineSettings,
    ConfidenceConfig,
    ElicitationConfig,
    LWFConfig,
    PosteriorConfig,
    SelectionConfig,
    UnlearningSettings,
)
from graceful_forgetting.lab.base_model import BaseModelConfig
from graceful_forgetting.results.text_tables import markdown_table
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments

PAGE = Path(__file__).parent / "reference" / "settings.md"
INTRODUCTION = """\
# Settings

<!-- Written by docs/make_settings.py. Do not edit. -->

Every field below can stand in a recipe (YAML), on the command line (`--unlearn_every 10`) and, if it is one of
`LWFConfig`, in Python. The command line beats the recipe. A name that does not exist is an error that suggests the
nearest one. `graceful fields` prints the same list.

A stage's config takes the same fields without the prefix: `confidence_step_size` is `ConfidenceConfig(step_size=...)`.
Each stage config also has `seed`, which `LWFConfig` sets to its own `seed`.
"""
# (title, what it is, class that declares most of the fields, prefix or prefixes of its fields in LWFConfig)
STAGES: tuple[tuple[str, str, type, str | tuple[str, ...]], ...] = (
    ("Elicitation", "the base model answers the forgetting prompts", ElicitationConfig, "elicitation_"),
    (
        "Posterior",
        "θ*_L and the Fisher information of the learning task",
        PosteriorConfig,
        ("reference_", "posterior_"),
    ),
    ("Confidence", "the score of every answer", ConfidenceConfig, "confidence_"),
    ("Selection", "which answers are unlearned", SelectionConfig, "forget_"),
)


def type_text(kind: Any) -> str:
    """How a user would say a type: int, list[str], or the values that are allowed."""
    if get_origin(kind) in (Union, UnionType):
        members = [member for member in get_args(kind) if member is not NoneType]
        return " or ".join(type_text(member) for member in members)
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is not None:
        return str(kind)
    return kind.__name__


def default_text(field: dataclasses.Field[Any]) -> str:
    """What holds where the field is not set, with the value as YAML has it."""
    if field.default is None or field.default is dataclasses.MISSING:
        return "unset by default"
    value = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return f"default `{value}`"


def declared_types(owner: type) -> dict[str, Any]:
    """Field name -> type as it was declared: parsers of command lines change `Field.type` in place."""
    return {name: kind for cls in reversed(owner.__mro__) for name, kind in inspect.get_annotations(cls).items()}


def table(fields: list[dataclasses.Field[Any]], owner: type) -> str:
    """One row a field. Two columns, so that it can be read on a narrow screen as well."""
    types = declared_types(owner)
    rows = []
    for field in fields:
        help_text = html.escape(field.metadata["help"], quote=False).replace("*", r"\*")
        meaning = f"{help_text}<br>*{type_text(types[field.name])}; {default_text(field)}*"
        rows.append((f"`{field.name}`", meaning))
    return markdown_table(("field", "meaning"), rows)


def page() -> str:
    """The whole page."""
    joined = {field.name: field for field in dataclasses.fields(LWFConfig)}
    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    parts = [INTRODUCTION]

    def section(title: str, text: str, fields: list[dataclasses.Field[Any]], owner: type = LWFConfig) -> None:
        parts.append(f"## {title}\n\n{text}\n\n{table(fields, owner)}\n")

    section(
        "The run",
        "Model and tasks. Fields of a recipe only, not of `LWFConfig`.",
        list(dataclasses.fields(RunArguments)),
        RunArguments,
    )
    section(
        "The model",
        "Fields of a recipe only; in Python, pass `model=` and `peft_config=`.",
        list(dataclasses.fields(ModelArguments)),
        ModelArguments,
    )
    section("The method", "`LWFConfig`: what all other settings start from.", [joined["method"]])
    grouped = {"method"}
    for title, text, config, prefix in STAGES:
        fields = [field for name, field in joined.items() if name.startswith(prefix) and name not in inherited]
        grouped |= {field.name for field in fields}
        section(title, f"`{config.__name__}`: {text}.", fields)
    for title, text, config in (
        ("Unlearning", "`LWFConfig`: what an unlearning update is, when it happens, what ends it.", UnlearningSettings),
        ("Baselines", "`LWFConfig`: methods to compare with.", BaselineSettings),
    ):
        fields = [joined[field.name] for field in dataclasses.fields(config)]
        grouped |= {field.name for field in fields}
        section(title, text, fields)
    section(
        "The base model",
        "Fields of `graceful base build`, which trains a small base model, and of nothing else.",
        list(dataclasses.fields(BaseModelConfig)),
        BaseModelConfig,
    )
    left = joined.keys() - grouped - inherited
    if left:
        raise SystemExit(f"docs/make_settings.py puts these fields of LWFConfig into no section: {sorted(left)}")
    names = ", ".join(f"`{name}`" for name in joined if name in inherited)
    parts.append(
        "## Learning\n\nAll fields of TRL's "
        "[`SFTConfig`](https://huggingface.co/docs/trl/sft_trainer#trl.SFTConfig), which keep their meaning and their "
        "defaults. One differs: on a machine without a bf16-capable accelerator an unset `bf16` becomes `false`, where "
        f'`SFTConfig` refuses to start.\n\n??? note "Their names"\n\n    {names}\n'
    )
    return "\n".join(parts)


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            sys.exit("docs/reference/settings.md is out of date: python docs/make_settings.py")
    else:
        PAGE.write_text(text, encoding="utf-8")
