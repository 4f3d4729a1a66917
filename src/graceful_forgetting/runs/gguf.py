"""Models in GGUF files: turned into folders that every stage reads, once."""

import importlib.util
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import cached_file

from graceful_forgetting.runtime.artifacts import cache_root, file_sha256
from graceful_forgetting.runtime.store import Entry, key_of
from graceful_forgetting.training.model_files import check_keys, in_short

logger = logging.getLogger(__name__)

_RECORD = "gguf.json"


def dequantised_folder(
    name_or_path: str, gguf_file: str, *, dtype: str = "float32", revision: str | None = None
) -> Path:
    """Folder in the cache of this package with the model and the tokenizer of a GGUF file, made at the first call.

    transformers takes minutes or half of one to read such a file, and a run reads its model a dozen times.

    Args:
        name_or_path: folder, or name on the hub, that has the file.
        gguf_file: its name there.
        dtype: type of the weights; "auto" is that of the file, float32 where it is quantised.
        revision: branch, tag or commit on the hub.

    Raises:
        ImportError: the package gguf is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is no GGUF file, or transformers cannot read its architecture or tokenizer.
    """
    where = f"gguf_file={gguf_file!r}"
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(
            f"{where} needs the package gguf, which is not installed: pip install 'graceful-forgetting[gguf]'"
        )
    file = _found(where, name_or_path, gguf_file, revision)
    with file.open("rb") as content:
        if content.read(4) != b"GGUF":
            raise ValueError(f"{where}: {file} is no GGUF file, or a damaged one: download it again")
    digest = file_sha256(file)
    key = key_of(gguf=digest, dtype=dtype, transformers=transformers.__version__, reader=version("gguf"))
    entry = Entry(cache_root() / "gguf" / key, key, _RECORD)
    return entry.once(lambda folder: {**write_dequantised(file, folder, dtype), "gguf": digest})


def _found(where: str, name_or_path: str, gguf_file: str, revision: str | None) -> Path:
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        if not (folder / gguf_file).is_file():
            there = ", ".join(sorted(entry.name for entry in folder.glob("*.gguf"))) or "none"
            raise FileNotFoundError(f"{where} is not in {folder}: its GGUF files are {there}")
        return folder / gguf_file
    try:
        return Path(cached_file(name_or_path, gguf_file, revision=revision))
    except OSError as error:
        raise FileNotFoundError(
            f"{where} is not at hand in model_name_or_path={name_or_path!r}, which is no folder: name the folder that "
            f"has the file ({str(error).splitlines()[0]})"
        ) from error


def write_dequantised(file: Path, folder: Path, dtype: str = "float32") -> Mapping[str, Any]:
    """Write model and tokenizer of a GGUF file into `folder`, as `from_pretrained` reads them.

    Raises:
        ValueError: transformers cannot read them; names the file.
    """
    logger.info("reading %s: its weights are dequantised once", file)
    options = {"gguf_file": file.name}
    try:
        # Asked for by name: without it the quantiser stays on the model after dequantising wherever transformers reads
        # the architecture by its older loader (5.19 to 5.24, `is_gguf_arch_supported`), and such a model is neither
        # saved nor trained.
        model, found = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **options)
    # The readers meet a file of any content with errors of any class.
    except Exception as error:
        raise ValueError(
            f"{file} cannot be read ({in_short(error)}): take a GGUF that "
            "transformers can dequantise, or the model's safetensors"
        ) from error
    check_keys(str(file), model, found)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"file": file.name, "dtype": str(model.dtype).removeprefix("torch.")}
