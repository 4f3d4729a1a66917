"""Credentials: what must reach neither a file nor the screen, known by the name of its setting or by its form."""

import logging
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

HIDDEN = "<hidden>"
# Not every "*_token": eos_token and pad_token are settings of text.
_NAMES = frozenset(
    {"hub_token", "push_to_hub_token", "token", "use_auth_token", "auth_token", "access_token", "api_key", "password"}
)
# https://user:password@host, tokens of the Hugging Face hub, keys as OpenAI's servers take them, and their header.
_FORMS = re.compile(
    r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@'\"]+@"
    r"|\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|(?P<header>\bBearer )\S+"
)


def is_secret(name: object) -> bool:
    """Whether a setting of this name holds a credential."""
    return isinstance(name, str) and name in _NAMES


def without_secrets(text: str) -> str:
    """The text with `<hidden>` in place of credentials in URLs and of tokens that are known by their form."""

    def hidden(found: re.Match[str]) -> str:
        if found["scheme"] is not None:
            return f"{found['scheme']}{HIDDEN}@"
        return f"{found['header'] or ''}{HIDDEN}"

    return _FORMS.sub(hidden, text)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values: credentials hidden at any depth, enums by value, other objects as text."""
    return {
        str(name): HIDDEN if is_secret(name) and value is not None else _plain(value)
        for name, value in settings.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return public_settings(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return without_secrets(str(value))


def public_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with its credentials hidden."""
    shown, hide_next = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = name.startswith("--") and is_secret(name[2:].replace("-", "_"))
        if hide_next:
            shown.append(HIDDEN)
        elif secret and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(without_secrets(argument))
        hide_next = secret and not equals
    return shown


def without_secret_values(value: Any) -> Any:
    """The same mapping, at any depth, with None for every credential; other values as they are."""
    if not isinstance(value, dict):
        return without_secrets(value) if isinstance(value, str) else value
    return {name: None if is_secret(name) else without_secret_values(item) for name, item in value.items()}


class SecretsFilter(logging.Filter):
    """Takes credentials out of log messages, those of libraries too."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record; every record passes."""
        record.msg, record.args = without_secrets(record.getMessage()), None
        return True
