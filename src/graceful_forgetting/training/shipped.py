"""The base model inside the package, and the name by which recipes know it."""

from pathlib import Path

SHIPPED_NAME = "graceful/base-text"
_CHECKPOINT = Path(__file__).parent / "checkpoint"


def shipped_model() -> Path:
    """Folder of the shipped base model and its tokenizer.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    if not (_CHECKPOINT / "config.json").is_file():
        raise FileNotFoundError(
            f"the model {SHIPPED_NAME!r} is missing from the installed package ({_CHECKPOINT}); install the package "
            "again, or build a model: graceful base build --text <folder> --output_dir models/base"
        )
    return _CHECKPOINT


def resolve_model_name(name_or_path: str) -> str:
    """The folder of the shipped model where it is named; any other name or path as it is."""
    return str(shipped_model()) if name_or_path == SHIPPED_NAME else name_or_path
