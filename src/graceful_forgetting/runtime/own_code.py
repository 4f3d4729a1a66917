"""Code that a user brings: found by its import path `package.module:Name`, and told apart by what is written in it."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from types import CodeType
from typing import Any

# Of these nothing is hashed: their versions are recorded.
_KNOWN = {*sys.stdlib_module_names, "graceful_forgetting", "torch"} - {"__main__"}


def is_import_path(value: object) -> bool:
    """Whether a value names something to import, `package.module:Name`."""
    return isinstance(value, str) and ":" in value


def import_path(field: str, value: Any) -> Any:
    """The import path of a class or function; anything else as it is.

    Raises:
        ValueError: names the field: it is written inside a function, where no path leads.
    """
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return value
    if "<" in value.__qualname__:
        raise ValueError(f"{field}: {value.__qualname__} has no import path; write it at the top level of a module")
    return f"{value.__module__}:{value.__qualname__}"


def imported(field: str, path: str) -> Any:
    """What an import path names. Modules in the current folder are found as well.

    Raises:
        ValueError: names the field and the path, and says whether the module or the name in it is missing.
    """
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        # Last, so that no file of the folder hides an installed package. `graceful` starts without it.
        sys.path.append(str(Path.cwd()))
    try:
        return attrgetter(name)(importlib.import_module(module))
    except Exception as error:  # a module of the user's may raise anything
        raise ValueError(
            f"{field}={path!r} cannot be imported: {type(error).__name__}: {error}. It must be package.module:Name, "
            "with the module in the current folder or installed"
        ) from error


def fingerprint_code(*parts: type, path: str = "") -> str | None:
    """Hash of the modules in which classes and their bases are written; None where all are known ones.

    Known are this package, torch and the standard library. Of a module without a file, as a notebook's, the functions
    of the classes are hashed.

    Args:
        path: import path that led to the parts, whose module counts as well.
    """
    classes = {base for part in parts for base in part.__mro__}
    names = {base.__module__ for base in classes} | ({path.partition(":")[0]} if is_import_path(path) else set())
    own = sorted(name for name in names if name.partition(".")[0] not in _KNOWN)
    if not own:
        return None
    written = [_written(name, [base for base in classes if base.__module__ == name]) for name in own]
    return hashlib.sha256("\n".join(written).encode()).hexdigest()


def _written(module: str, classes: Sequence[type]) -> str:
    file = vars(sys.modules[module]).get("__file__")
    if file is not None and Path(file).suffix == ".py":
        return Path(file).read_text(encoding="utf-8")
    functions = sorted(
        (found for base in classes for found in vars(base).values() if inspect.isfunction(found)),
        key=lambda found: found.__qualname__,
    )
    return repr([_compiled(found.__code__) for found in functions])


def _compiled(code: CodeType) -> list[Any]:
    constants = [_compiled(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return [code.co_name, code.co_code.hex(), code.co_names, constants]
