"""A task described in a YAML file, without code; `docs/tasks.md` has the keys and examples.

name: capitals
data: capitals/            # a JSONL file, or a folder with train.jsonl and test.jsonl, beside this file
columns: [country, capital]
prompt: "The capital of {{ country }} is"
completion: " {{ capital }}"
parse: first_line
metric: exact_match
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import regex

from graceful_forgetting.runtime.nearest import did_you_mean
from graceful_forgetting.runtime.yaml_file import read_yaml
from graceful_forgetting.tasks.answers import (
    NO_LABEL,
    PARSERS,
    Parser,
    RunawayPatternError,
    labels_parser,
    regex_parser,
)
from graceful_forgetting.tasks.jsonl import split_files
from graceful_forgetting.tasks.multiple_choice import LETTERS
from graceful_forgetting.tasks.task import KINDS, SPLITS, Row, Task, TaskMetric, shown
from graceful_forgetting.tasks.templates import expression, expression_variables, template, variables

_KEYS = (
    *("name", "description", "licence", "language"),
    *("data", "hub", "columns", "id_column", "system_prompt"),
    *("prompt", "completion", "answer", "choices", "correct", "options", "parse", "metric", "old_answer", "kind"),
)
_KNOWN_TRUTH = ("old_answer", "kind")
_HUB_KEYS = ("id", "config", "splits")
_DEFAULT_CHOICE = " {{ letter }}. {{ choice }}"


class _File:
    """The content of the file, read key by key; every error names file, key, value and fix."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"no task file at {path.absolute()}")
        text, content = read_yaml(path, str(path))
        if not isinstance(content, dict):
            raise ValueError(f"{path} must hold keys and values (`prompt: ...`); keys: {', '.join(_KEYS)}")
        self.content = content
        self.definition = blake2b(text.encode(), digest_size=16).hexdigest()
        self.check_keys(content, _KEYS, "")

    def error(self, key: str, fix: str) -> ValueError:
        value = self.content.get(key.split(".")[0])
        # Words, numbers and dates that YAML does not take for text.
        unquoted = regex.search(r"True|False|\d", regex.sub(r"\'[^\']*\'|\"[^\"]*\"", "", repr(value)))
        quote = "; in quotation marks yes, no, numbers and dates are text in YAML" if unquoted else ""
        return ValueError(f"{self.path}: key {key!r} is {shown(value)}: {fix}{quote}")

    def check_keys(self, mapping: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
        for key in mapping:
            if key not in known:
                hint = did_you_mean(str(key), known)
                raise ValueError(f"{self.path}: key {prefix + str(key)!r} is unknown: {hint}Keys: {', '.join(known)}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.content.get(key, default)
        if value is None:
            raise ValueError(f"{self.path}: key {key!r} is missing; it must be text")
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "it must be text that is not empty")
        return value

    def one_of(self, key: str, default: str, known: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value not in known:
            raise self.error(key, f"it must be one of {', '.join(known)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.content.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise self.error(key, "it must be a list of texts, such as [question, answer]")
        return tuple(value)

    def readable(self, key: str, names: set[str], columns: tuple[str, ...], also: tuple[str, ...]) -> None:
        """Raise for a name in `names` that is neither a column nor in `also`."""
        for name in sorted(names - set(columns) - set(also)):
            hint = did_you_mean(name, columns, "add it to columns, or correct it. ")
            raise self.error(key, f"it reads {name!r}, which is no column; {hint}Columns: {', '.join(columns)}")

    def row_error(self, key: str, problem: str) -> ValueError:
        """An error of a row, which whoever reads the row puts its place before."""
        return ValueError(f"{problem} (key {key!r} of {self.path})")

    def made(self, key: str, make: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
        """`make`, with the key in its errors."""

        def named(values: Mapping[str, Any]) -> Any:
            try:
                return make(values)
            except ValueError as error:
                raise self.row_error(key, str(error)) from error

        return named

    def checked(self, key: str, find: Callable[[str], set[str]], source: str) -> set[str]:
        try:
            return find(source)
        except ValueError as error:
            raise self.error(key, str(error)) from error


def file_task(path: str | Path) -> Task:
    """The task that the YAML file at `path` describes.

    Raises:
        FileNotFoundError: the file or its data are not there.
        ValueError: a key or value that is not valid; names file, key, value and fix.
    """
    file = _File(Path(path).expanduser())
    columns = file.texts("columns")
    multiple_choice = "choices" in file.content
    parse = _parser(file, "first_letter" if multiple_choice else "exact")
    default_metric = "accuracy" if multiple_choice else "exact_match"
    metric: Any = file.one_of("metric", default_metric, get_args(TaskMetric))
    id_column = None if "id_column" not in file.content else file.text("id_column")
    if id_column is not None and id_column not in columns:
        raise file.error("id_column", f"it must be one of columns: {', '.join(columns)}")
    form = _choice_form(file, columns, parse) if multiple_choice else _plain_form(file, columns, parse)
    return Task(
        name=file.text("name", file.path.stem),
        description=file.text("description", f"described in {file.path}"),
        licence=file.text("licence", "of the user's data"),
        columns=columns,
        format_row=form,
        parse_answer=parse,
        metric=metric,
        id_column=id_column,
        language=file.text("language", "en"),
        system_prompt=file.text("system_prompt") if "system_prompt" in file.content else None,
        definition=file.definition,
        **_origin(file),
    )


def _origin(file: _File) -> dict[str, Any]:
    if ("data" in file.content) == ("hub" in file.content):
        raise ValueError(
            f"{file.path}: give either key 'data' (a JSONL file or folder, relative to this file) or key 'hub' "
            "(id, config, splits), and not both"
        )
    if "data" in file.content:
        path = file.path.parent / Path(file.text("data")).expanduser()
        try:
            split_files(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{file.path}: key 'data' is {file.text('data')!r}: {error}") from error
        return {"path": path}
    hub = file.content["hub"]
    if not isinstance(hub, dict) or not isinstance(hub.get("id"), str):
        raise file.error("hub", "it must hold id, and may hold config and splits: {id: owner/name, config: main}")
    file.check_keys(hub, _HUB_KEYS, "hub.")
    config, splits = hub.get("config"), hub.get("splits", {"train": "train", "test": "test"})
    if config is not None and not isinstance(config, str):
        raise file.error("hub.config", "it must be text")
    if (
        not isinstance(splits, dict)
        or set(splits) != set(SPLITS)
        or not all(isinstance(split, str) for split in splits.values())
    ):
        raise file.error("hub.splits", "it must name both: {train: train, test: validation}")
    return {"hub_id": hub["id"], "hub_configs": () if config is None else (config,), "splits": splits}


def _parser(file: _File, default: str) -> Parser:
    value = file.content.get("parse", default)
    if isinstance(value, str) and value in PARSERS:
        return PARSERS[value]
    kind = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
    argument: Any = value[kind] if kind is not None else None
    try:
        if kind == "regex" and isinstance(argument, str):
            return regex_parser(argument)
        if kind == "labels" and _is_texts(argument) and NO_LABEL not in argument:
            return labels_parser(argument)
    except regex.error as error:
        raise file.error(f"parse.{kind}", f"it is not a valid regular expression: {error}") from error
    except RunawayPatternError as error:
        raise file.error(f"parse.{kind}", str(error)) from error
    raise file.error(
        "parse",
        f"it must be one of {', '.join(PARSERS)}, {{regex: '...'}}, or {{labels: {{label: '...'}}}} with labels other "
        f"than {NO_LABEL!r}",
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(text, str) for text in (*value, *value.values()))


def _plain_form(file: _File, columns: tuple[str, ...], parse: Parser) -> Callable[[Row], dict[str, Any]]:
    if "correct" in file.content:
        raise file.error("correct", "it needs choices; remove it or add them")
    render = _templates(file, ("completion", "answer", *_KNOWN_TRUTH), columns, ("row",))
    without = [key for key in ("answer", "old_answer") if key in file.content]
    if "completion" not in file.content and without:
        raise file.error(without[0], "it needs a completion; add that, or remove it")
    options = file.texts("options") if "options" in file.content else None
    if options is not None and "completion" in file.content:
        raise file.error(
            "options", "they are what the model chooses its own answer from; remove them or the completion"
        )

    def form(row: Row) -> dict[str, Any]:
        rendered = render({**row, "row": row})
        if "completion" not in rendered:
            return rendered if options is None else {**rendered, "options": list(options)}
        try:
            answer = _answer(parse, rendered["completion"], rendered.get("answer"))
            _check_old(parse, rendered, answer)
        except ValueError as error:
            raise file.row_error("parse", str(error)) from error
        return {**rendered, "answer": answer}

    return form


def _templates(
    file: _File, keys: tuple[str, ...], columns: tuple[str, ...], also: tuple[str, ...]
) -> Callable[[Mapping[str, Any]], dict[str, str]]:
    """A function of a row's values: what the templates of `prompt`, and of these keys where the file has them, give.

    It raises `ValueError` for a text that is blank and for a kind that there is not.
    """
    sources = {"prompt": file.text("prompt")} | {key: file.text(key) for key in keys if key in file.content}
    for key, source in sources.items():
        file.readable(key, file.checked(key, variables, source), columns, also)
    render = {key: file.made(key, template(source)) for key, source in sources.items()}

    def rendered(values: Mapping[str, Any]) -> dict[str, str]:
        texts = {key: render[key](values) for key in sources}
        for key, text in texts.items():
            if not text.strip():
                raise file.row_error(
                    key, f"{key}={shown(text)} is empty or white space: fill the columns that it reads"
                )
        if texts.get("kind", KINDS[0]) not in KINDS:
            raise file.row_error("kind", f"kind={shown(texts['kind'])} must be one of {', '.join(KINDS)}")
        return texts

    return rendered


def _check_old(parse: Parser, rendered: Mapping[str, str], answer: str | None) -> None:
    """Raise `ValueError` where the old answer of a row is read as the right one."""
    if "old_answer" in rendered and parse(rendered["old_answer"]) == answer:
        raise ValueError(
            f"the old answer {shown(rendered['old_answer'])} is read as {shown(answer)}, which is the right one"
        )


def _answer(parse: Parser, completion: str, reference: str | None) -> str:
    """The reference (the completion where there is none) as `parse` would give it; raises `ValueError` where the
    completion itself would count as wrong.
    """
    read = parse(completion)
    answer = read if reference is None else parse(reference)
    if answer is None:
        of = completion if reference is None else reference
        raise ValueError(f"no answer can be read in {shown(of)}: check the keys answer and parse")
    if read != answer:
        raise ValueError(
            f"the completion {shown(completion)} is read as {shown(read)}, and the answer is {shown(answer)}: the "
            "right completion must count as right; check the keys completion, answer and parse"
        )
    return answer


@dataclass(frozen=True)
class _ChoiceForm:
    """Row -> multiple-choice question; `options` and `correct` are functions of the row's values."""

    rendered: Callable[[Mapping[str, Any]], dict[str, str]]
    completion: Callable[[Mapping[str, Any]], str]
    options: Callable[[Mapping[str, Any]], Any]
    correct: Callable[[Mapping[str, Any]], Any]
    position: Callable[[Mapping[str, Any]], int]
    parse: Parser

    def __call__(self, row: Row) -> dict[str, Any]:
        values = {**row, "row": row}
        options = self.options(values)
        if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
            raise ValueError(f"choices has the value {shown(options)}; it must be a list of texts")
        if not all(option.strip() for option in options):
            raise ValueError(f"choices has the value {shown(options)}: a text is empty or white space")
        if not 2 <= len(options) <= len(LETTERS):
            raise ValueError(f"choices has {len(options)} texts; it must have 2 to {len(LETTERS)}")
        right = self.position({"right": self.correct(values), "options": list(options)})
        completions = [
            self.completion({**values, "choices": options, "choice": option, "letter": letter})
            for option, letter in zip(options, LETTERS, strict=False)
        ]
        answers = [self.parse(completion) for completion in completions]
        if None in answers or len(set(answers)) < len(answers):
            raise ValueError(
                f"the choices {completions!r} are read as {answers!r}, which does not tell them apart: check the keys "
                "completion and parse"
            )
        rendered = self.rendered({**values, "choices": options})
        _check_old(self.parse, rendered, answers[right])
        if "old_answer" in rendered and self.parse(rendered["old_answer"]) not in answers:
            raise ValueError(
                f"the old answer {shown(rendered['old_answer'])} is read as "
                f"{shown(self.parse(rendered['old_answer']))}, which is none of the choices, read as {answers!r}"
            )
        return {
            **rendered,
            "completion": completions[right],
            "answer": answers[right],
            "choices": completions,
        }


def _choice_form(file: _File, columns: tuple[str, ...], parse: Parser) -> _ChoiceForm:
    if "answer" in file.content:
        raise file.error("answer", "with choices the answer is the correct one; remove it")
    if "options" in file.content:
        raise file.error("options", "they are for prompts without a right answer; with choices remove it")
    rendered = _templates(file, _KNOWN_TRUTH, columns, ("row", "choices"))
    completion, correct = file.text("completion", _DEFAULT_CHOICE), file.text("correct")
    also = ("row", "choices", "choice", "letter")
    file.readable("completion", file.checked("completion", variables, completion), columns, also)
    file.readable("correct", file.checked("correct", expression_variables, correct), columns, ("row",))
    fixed = file.content["choices"]
    if isinstance(fixed, str):
        file.readable("choices", file.checked("choices", expression_variables, fixed), columns, ("row",))
        options = expression(fixed)
    else:
        file.texts("choices")

        def options(values: Mapping[str, Any]) -> Any:
            del values
            return fixed

    return _ChoiceForm(
        rendered,
        file.made("completion", template(completion)),
        file.made("choices", options),
        file.made("correct", expression(correct)),
        file.made("correct", lambda values: _position(values["right"], values["options"])),
        parse,
    )


def _position(right: Any, options: list[str]) -> int:
    """Number of the right option, from its number, its text or its letter."""
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(options):
        return right
    if isinstance(right, str) and right in options:
        return options.index(right)
    if isinstance(right, str) and len(right) == 1 and right in LETTERS[: len(options)]:
        return LETTERS.index(right)
    raise ValueError(
        f"correct has the value {shown(right)}: it must be a number from 0 to {len(options) - 1}, a letter, or "
        f"one of {shown(options)}"
    )
