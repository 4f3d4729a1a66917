"""Templates and expressions of YAML tasks: Jinja in its sandbox, where they reach the row's values and nothing else.

`str.format` would be no safer (it follows attributes), and has neither loops nor indexing by a value, which data sets
with lists of options need. lm-evaluation-harness has Jinja templates as well, so that one carries over to the other.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from graceful_forgetting.tasks.multiple_choice import lettered

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
_ENVIRONMENT.globals["lettered"] = lambda options: "\n".join(lettered(options))
# What rendering can raise on a row whose values are not what the template expects.
_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


def variables(source: str) -> set[str]:
    """The names that a template reads; raises `ValueError` where it is no valid template."""
    try:
        return meta.find_undeclared_variables(_ENVIRONMENT.parse(source)) - set(_ENVIRONMENT.globals)
    except TemplateError as error:
        raise ValueError(f"not a valid template: {error}") from error


def expression_variables(source: str) -> set[str]:
    """The names that an expression reads; raises `ValueError` where it is none."""
    return variables("{{ (" + source + ") }}")


def template(source: str) -> Callable[[Mapping[str, Any]], str]:
    """A function from values to text; it raises `ValueError` where the values do not fit."""
    compiled = _ENVIRONMENT.from_string(source)

    def render(values: Mapping[str, Any]) -> str:
        try:
            return compiled.render(values)
        except _ERRORS as error:
            raise ValueError(f"{source!r} cannot be filled in: {error}") from error

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
            raise ValueError(f"{source!r} has no value: {error}") from error

    return evaluate
