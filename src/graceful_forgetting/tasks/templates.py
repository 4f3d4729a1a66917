"""Templates and expressions of YAML tasks: Jinja in its sandbox, where they reach the row's values and nothing else.

`str.format` would be no safer (it follows attributes), and has neither loops nor indexing by a value, which data sets
with lists of options need. lm-evaluation-harness has Jinja templates as well, so that one carries over to the other.

A template comes to an end: rounds of loops, texts that it multiplies and padding are limited (`_Environment`). What it
writes is text and numbers: a `None` or a list in `{{ }}` is a hole in the row and never meant.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import wraps
from inspect import signature
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta, nodes, pass_eval_context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from graceful_forgetting.tasks.multiple_choice import lettered
from graceful_forgetting.tasks.task import shown

# What one filling of a template may make: characters by `*` and `~`, width of padding, bits of a power, rounds.
_MOST_CHARACTERS = 10_000_000
_WIDEST = 1000
_MOST_BITS = 3000
_MOST_ROUNDS = 20_000
# What rendering can raise on a row whose values are not what the template expects.
_ERRORS = (
    *(TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, MemoryError),
)
# Filters and methods of texts whose numbers are widths or counts of copies.
_WIDE_FILTERS = ("batch", "center", "indent", "round", "slice", "tojson")
_WIDE_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")
# A width of four digits, or one that is a value itself, of `%` and of `format`.
_WIDE_FORMAT = re.compile(r"%(?:\([^)]*\))?[-+ #0\d]*\.?(?:\d{4}|\*)|\{[^{}]*:[^{}]*(?:\d{4}|\{)")
# They differ from run to run, or print Python.
_WITHOUT = ("pprint", "random")


class _NoTextError(ValueError):
    """A value in `{{ }}` that is neither text nor a number."""

    def __init__(self, value: Any):
        super().__init__(shown(value))
        self.value = value


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MOST_BITS:
                raise SecurityError(f"{shown(left)} ** {shown(right)} is too large a number")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > _MOST_ROUNDS:
                    raise SecurityError(f"{shown(many)} {times} times is too long: at most {_MOST_ROUNDS} items")
            numbers = isinstance(left, int) and isinstance(right, int)
            if numbers and left.bit_length() + right.bit_length() > _MOST_BITS:
                raise SecurityError(f"{shown(left)} * {shown(right)} is too large a number")
        elif isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        # The sandbox wraps str.format.
        method = getattr(function, "__wrapped__", function)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            if name in _WIDE_METHODS:
                _check_widths(name, [*args, *kwargs.values()])
            elif name in ("format", "format_map"):
                _check_format(owner)
            elif name == "replace" and len(args) > 1:
                _check_replacement(owner, args[0], args[1])
        return super().call(context, function, *args, **kwargs)


def _check_widths(name: str, values: list[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _WIDEST:
            raise SecurityError(f"{name} with {shown(value)}: at most {_WIDEST}")


def _check_format(text: str) -> None:
    if _WIDE_FORMAT.search(text):
        raise SecurityError(
            f"the format {shown(text)} is wider than {_WIDEST} characters, or takes its width from a value"
        )


def _check_replacement(text: str, old: Any, new: Any) -> None:
    copies = text.count(str(old)) if str(old) else len(text) + 1
    if len(text) + copies * len(str(new)) > _MOST_CHARACTERS:
        raise SecurityError(f"replace makes more than {_MOST_CHARACTERS} characters")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        # The first argument is the value, or the environment and then the value.
        options = [*args[1:], *kwargs.values()]
        if name in _WIDE_FILTERS:
            _check_widths(name, options)
        if name == "format":
            _check_format(str(args[0]))
        if name == "replace":
            given = signature(function).bind(*args, **kwargs).arguments
            _check_replacement(str(given["s"]), given["old"], given["new"])
        return function(*args, **kwargs)

    return call


@pass_eval_context
def _only_text(context: Any, value: Any) -> Any:
    """`value` where it is text, a number or a date; Jinja would write anything else as Python does."""
    del context
    if isinstance(value, bool) or not isinstance(
        value, str | int | float | Decimal | date | datetime | time | StrictUndefined
    ):
        raise _NoTextError(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _NoTextError(value)
    return value


def _joined(*parts: Any) -> str:
    texts = [str(_only_text(None, part)) for part in parts]
    if sum(map(len, texts)) > _MOST_CHARACTERS:
        raise SecurityError(f"~ makes more than {_MOST_CHARACTERS} characters")
    return "".join(texts)


class _Limited(NodeTransformer):
    """Counts the rounds of loops and the calls of macros, and joins texts by `_joined`."""

    def _counted(self, node: Any) -> Any:
        self.generic_visit(node)
        count = nodes.Call(nodes.Name("_round", "load"), [], [], None, None)
        node.body.insert(0, nodes.Output([count]))
        return node

    visit_For = visit_Macro = visit_CallBlock = _counted

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Call(nodes.Name("_joined", "load"), node.nodes, [], None, None)


class _Rounds:
    """Counts calls, and raises where they are too many."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> str:
        self.number += 1
        if self.number > _MOST_ROUNDS:
            raise SecurityError(f"more than {_MOST_ROUNDS} rounds of its loops")
        return ""


_ENVIRONMENT = _Environment(
    undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_only_text
)
_ENVIRONMENT.globals["lettered"] = lambda options: "\n".join(lettered(options))
del _ENVIRONMENT.globals["lipsum"]
for _name in _WITHOUT:
    del _ENVIRONMENT.filters[_name]
for _name in (*_WIDE_FILTERS, "format", "replace"):
    _ENVIRONMENT.filters[_name] = _bounded(_name, _ENVIRONMENT.filters[_name])


def variables(source: str) -> set[str]:
    """The names that a template reads; raises `ValueError` where it is no valid template."""
    try:
        tree = _ENVIRONMENT.parse(source)
        # Compiled, since a name of no filter is found only then.
        _ENVIRONMENT.from_string(source)
    except (TemplateError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a valid template: {error}") from error
    other = next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None)
    if other is not None:
        raise ValueError("not a valid template: it reads another file, and a task is one file")
    return meta.find_undeclared_variables(tree) - set(_ENVIRONMENT.globals)


def expression_variables(source: str) -> set[str]:
    """The names that an expression reads; raises `ValueError` where it is none."""
    names = variables("{{ (" + source + ") }}")
    try:
        # Nothing at all is a value in brackets, and "a) + (b" closes them.
        _ENVIRONMENT.compile_expression(source)
    except (TemplateError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a valid expression: {error}") from error
    return names


def _reason(error: BaseException) -> str:
    reason = (str(error) or type(error).__name__).rstrip(".")
    limits = isinstance(error, SecurityError | OverflowError | RecursionError | MemoryError)
    return f"{reason}; it may read the row's values and repeat {_MOST_ROUNDS} times in all" if limits else reason


def template(source: str) -> Callable[[Mapping[str, Any]], str]:
    """A function from values to text; it raises `ValueError` where the values do not fit."""
    compiled = _ENVIRONMENT.from_string(_Limited().visit(_ENVIRONMENT.parse(source)))
    names = sorted(variables(source))

    def render(values: Mapping[str, Any]) -> str:
        try:
            return compiled.render(values, _round=_Rounds(), _joined=_joined)
        except _NoTextError as error:
            columns = [name for name in names if name in values and values[name] is error.value]
            of = f"{columns[0]}, which is" if len(columns) == 1 else "a value that is"
            raise ValueError(
                f"{shown(source)} cannot be filled in: it writes {of} {error}; write text or a number: pick an item, "
                "give a default, or remove the row"
            ) from error
        except _ERRORS as error:
            raise ValueError(f"{shown(source)} cannot be filled in: {_reason(error)}") from error

    return render


def expression(source: str) -> Callable[[Mapping[str, Any]], Any]:
    """A function from values to a value; it raises `ValueError` where the values do not fit."""
    compiled = _ENVIRONMENT.compile_expression(source, undefined_to_none=False)

    def evaluate(values: Mapping[str, Any]) -> Any:
        try:
            value = compiled(values)
            # An undefined value reports itself only when it is used.
            return str(value) if isinstance(value, StrictUndefined) else value
        except _ERRORS as error:
            raise ValueError(f"{shown(source)} has no value: {_reason(error)}") from error

    return evaluate
