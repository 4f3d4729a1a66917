"""Whether the files of a base model are whole and of the right kind: known before the model is used.

Nothing in them is executed: weights are read as safetensors alone, never as pickles.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from graceful_forgetting.runtime.artifacts import read_json

TOKENIZER_FILE = "tokenizer.json"
_JSON_FILES = (CONFIG_NAME, GENERATION_CONFIG_NAME, "tokenizer_config.json", "special_tokens_map.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What the first bytes of a file say that it is, in place of what its name promises.
_KINDS = (
    (b"version https://git-lfs", "is a pointer of git-lfs, not the file itself: run `git lfs pull` in its folder"),
    (b"<!doctype", "is a web page: download the file again"),
    (b"<html", "is a web page: download the file again"),
    (b"GGUF", "is a GGUF file: name it in gguf_file"),
    (b"PK\x03\x04", "is a pickle or an archive, which is not read: save the weights as safetensors"),
    (b"\x80", "is a pickle, which is not read: save the weights as safetensors"),
)
# Masks, frequencies and positions that older versions of transformers saved and every version computes.
_OLD_BUFFERS = (".masked_bias", ".attn.bias", ".attention.bias", ".rotary_emb.inv_freq", ".position_ids")
_SHOWN = 5


def outline(
    argument: str, name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal language model of a folder or of the hub on torch's meta device: its shape without its weights.

    Its files are checked on the way; headers of weights are read, and their values are not kept.

    Args:
        argument: what the caller calls the model, for errors.
        name_or_path: folder, or name on the hub.
        revision: branch, tag or commit on the hub.
        trust_remote_code: as for `from_pretrained`.

    Raises:
        ValueError: a file of another kind than its name says, damaged, or pickled; no causal language model; weights
            that are missing, too many or of another shape. Names the file or the weights.
    """
    folder = Path(name_or_path)
    where = f"{argument}={name_or_path!r}"
    if folder.is_dir():
        revision = None
        _check_json_files(where, folder)
        _check_weight_files(where, folder)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name_or_path, **options)
        _check_architecture(where, config)
        # Mismatches are told here; transformers would refer to a table that it logs.
        model, found = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            config=config,
            device_map="meta",
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (ModelFilesError, ConnectionError, MemoryError):
        raise
    # What a library raises on files of any content has no common class.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            # Of the system: a full disk is no fault of the files.
            raise
        raise ModelFilesError(f"{where} cannot be loaded: {in_short(error)}") from error
    # A quantised checkpoint has entries of its own, which its quantiser checks.
    if getattr(config, "quantization_config", None) is None:
        check_keys(where, model, found)
    return model


class ModelFilesError(ValueError):
    """Files of a model cannot be used; the message names the argument, the file or the weights, and the remedy."""


def in_short(error: Exception) -> str:
    """What a library raised, as a part of a sentence."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _check_architecture(where: str, config: Any) -> None:
    encoder = [name for name in config.architectures or [] if name.endswith("ForMaskedLM")]
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in (
        getattr(config, "auto_map", None) or {}
    )
    if encoder or not known:
        kind = encoder[0] if encoder else f"of type {config.model_type!r}"
        raise ModelFilesError(
            f"{where} is {kind}, which does not write text from left to right: name a causal language model, such as "
            "one of the Llama, Qwen, Gemma or SmolLM families"
        )
    text = config.get_text_config(decoder=True)
    pad, rows = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    # Without an embedding of its own the model cannot even be made; `check_vocabulary` has the other tokens.
    if isinstance(pad, int) and isinstance(rows, int) and pad >= rows:
        raise ModelFilesError(
            f"{where}: pad_token_id={pad} of its config is beyond its {rows} embeddings: correct {CONFIG_NAME}"
        )


def _check_json_files(where: str, folder: Path) -> None:
    for name in _JSON_FILES:
        file = folder / name
        if file.is_file():
            _object_in(where, file)
    tokenizer = folder / TOKENIZER_FILE
    if tokenizer.is_file():
        _object_in(where, tokenizer)
        try:
            Tokenizer.from_file(str(tokenizer))
        # The library raises no narrower class.
        except Exception as error:
            raise ModelFilesError(
                f"{where}: {tokenizer} is no tokenizer ({in_short(error)}): restore the file"
            ) from error


def _object_in(where: str, file: Path) -> dict[str, Any]:
    _check_kind(where, file)
    try:
        content = read_json(file)
    except ValueError as error:
        raise ModelFilesError(f"{where}: {file} is not valid JSON: restore the file") from error
    if not isinstance(content, dict):
        raise ModelFilesError(f"{where}: {file} holds a JSON {type(content).__name__}, not an object: restore the file")
    return content


def _check_weight_files(where: str, folder: Path) -> None:
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if single.is_file():
        files = [single]
    elif index.is_file():
        files = _shards(where, index)
    else:
        _refuse_other_weights(where, folder)
    for file in files:
        _check_kind(where, file)
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelFilesError(
                f"{where}: {file} is no file of safetensors, or a damaged one ({in_short(error)}): restore it"
            ) from error


def _shards(where: str, index: Path) -> list[Path]:
    places = _object_in(where, index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelFilesError(f"{where}: {index} has no weight_map from weights to files: restore it")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name:
            raise ModelFilesError(f"{where}: {index} names {name!r}, which is not in the model's folder: correct it")
        if not (index.parent / name).is_file():
            raise ModelFilesError(f"{where}: {index.parent / name} is missing, and {index.name} names it: restore it")
    return [index.parent / name for name in names]


def _refuse_other_weights(where: str, folder: Path) -> None:
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelFilesError(
            f"{where} has its weights in {pickles[0]}, a pickle. Loading a pickle can run any code, so "
            f"none is read: save the model as safetensors ({SAFE_WEIGHTS_NAME})"
        )
    gguf = sorted(file.name for file in folder.glob("*.gguf"))
    if gguf:
        raise ModelFilesError(f"{where} has no {SAFE_WEIGHTS_NAME}, and {gguf[0]}: set gguf_file to {gguf[0]!r}")
    raise ModelFilesError(f"{where} has no weights: there is no {folder / SAFE_WEIGHTS_NAME}")


def _check_kind(where: str, file: Path) -> None:
    with file.open("rb") as content:
        head = content.read(256)
    if not head:
        raise ModelFilesError(f"{where}: {file} is empty: restore the file")
    start = head.lstrip().lower()
    # The first eight bytes of safetensors are the length of its header, an object: one in 32 begins as a pickle does.
    safetensors = head[8:9] == b"{"
    for magic, what in _KINDS:
        if (head.startswith(magic) or start.startswith(magic.lower())) and not (safetensors and magic == b"\x80"):
            raise ModelFilesError(f"{where}: {file} {what}")


def check_keys(where: str, model: PreTrainedModel, found: dict[str, Any]) -> None:
    """Refuse weights that are not those of the model.

    Args:
        where: start of the error.
        model: that was loaded.
        found: what `from_pretrained(output_loading_info=True)` gives beside it, where tied weights do not count as
            missing, nor buffers that the class knows as unexpected.

    Raises:
        ValueError: names the weights, with the shapes found and expected.
    """
    wrong = []
    if found["missing_keys"]:
        wrong.append(f"missing are {_some(found['missing_keys'])}")
    unexpected = [name for name in found["unexpected_keys"] if not name.endswith(_OLD_BUFFERS)]
    if unexpected:
        wrong.append(f"not in the model are {_some(unexpected)}")
    if found["mismatched_keys"]:
        shapes = (
            f"{name} ({tuple(there)} in the file, {tuple(expected)} in the model)"
            for name, there, expected in found["mismatched_keys"]
        )
        wrong.append(f"of another shape are {_some(shapes)}")
    if wrong:
        raise ModelFilesError(
            f"{where}: its weights are not those of {type(model).__name__}: {'; '.join(wrong)}. Restore them, or "
            f"correct {CONFIG_NAME}: what is missing would be drawn at random"
        )


def _some(names: Iterable[str]) -> str:
    listed: Collection[str] = sorted(names)
    more = len(listed) - _SHOWN
    return ", ".join(list(listed)[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
