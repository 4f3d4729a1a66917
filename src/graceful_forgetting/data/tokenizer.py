"""One tokenizer for a whole run: what the settings say of it is done to a copy, before any row is tokenised."""

import copy
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import SFTConfig

from graceful_forgetting.data.rows import require_pad_token
from graceful_forgetting.runtime.hashes import fingerprint_json

logger = logging.getLogger(__name__)

_TEMPLATE_FILES = (".jinja", ".j2")
# By which a template reads the clock.
_DATE = "strftime_now"


def settled_tokenizer(
    processing_class: PreTrainedTokenizerBase, args: SFTConfig, *, may_grow: bool = False
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with `eos_token`, `pad_token` and `chat_template_path` of the settings.

    What TRL's `SFTTrainer` does to the tokenizer that it is handed, and with the same outcome: it finds nothing left to
    change on the copy. Without a pad token of its own or of the settings, the EOS token is the pad token.

    Args:
        processing_class: the model's tokenizer; it is not changed.
        args: settings of the run.
        may_grow: of a tokenizer that brings a template and tokens that the model lacks, leave both to TRL's trainer,
            which adds the tokens and grows the model; else they are refused.

    Raises:
        ValueError: names the setting, its value and the remedy.
        FileNotFoundError: `chat_template_path` is no file, no folder and no name of a tokenizer at hand.
    """
    tokenizer = copy.deepcopy(processing_class)
    if args.eos_token is not None:
        tokenizer.eos_token = _known(args.eos_token, "eos_token", tokenizer)
    if args.chat_template_path is not None:
        _take_over_template(tokenizer, args.chat_template_path, may_grow)
    if args.pad_token is not None:
        tokenizer.pad_token = _known(args.pad_token, "pad_token", tokenizer)
    elif tokenizer.pad_token is None:
        require_pad_token(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    if _DATE in str(tokenizer.chat_template):
        logger.warning(
            "The chat template writes the day's date: on another day prompts are others, and all is made anew. To keep "
            "what is made, give a template with a fixed date (chat_template_path)."
        )
    return tokenizer


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all that decides which tokens a text or a conversation becomes, today's date included where the chat
    template writes it; paths do not count."""
    rules: Any = sorted(tokenizer.get_vocab().items())
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # They are set anew by each call.
        rules |= {"truncation": None, "padding": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return fingerprint_json([type(tokenizer).__name__, special, tokenizer.chat_template, rules, *_of_today(tokenizer)])


def _of_today(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a chat template that reads the clock, as Llama 3's does, makes of conversations today; else nothing."""
    found = []
    system, user = ({"role": role, "content": "a"} for role in ("system", "user"))
    for turns in ([user], [system, user]) if _DATE in str(tokenizer.chat_template) else ():
        with suppress(TemplateError):
            found.append(str(tokenizer.apply_chat_template(turns, tokenize=False)))
    return found


def _known(token: str, setting: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """`token`, which the vocabulary has; one that is put at the end of texts must stay itself there."""
    number = tokenizer.get_vocab().get(token)
    last = tokenizer(text="a" + token, add_special_tokens=False)["input_ids"][-1:]
    if number is None or (setting == "eos_token" and list(last) != [number]):
        there = ", ".join(dict.fromkeys([*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()])) or "none"
        raise ValueError(
            f"{setting}={token!r} is no token that the model's tokenizer finds in a text: name one that it does. Its "
            f"special tokens: {there}"
        )
    return token


def _take_over_template(tokenizer: PreTrainedTokenizerBase, place: str, may_grow: bool) -> None:
    path = Path(place).expanduser()
    if path.suffix in _TEMPLATE_FILES:
        if not path.is_file():
            raise FileNotFoundError(f"chat_template_path={place!r}: there is no file {path.absolute()}")
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    else:
        source = _source(place)
        missing = [token for token in source.get_added_vocab() if token not in tokenizer.get_vocab()]
        if missing and may_grow:
            return
        if missing:
            raise ValueError(
                f"chat_template_path={place!r}: its tokenizer has tokens that the model lacks ({', '.join(missing)}), "
                "and no stage could tell their untrained embeddings from the model's own: name a template in a "
                ".jinja file that does without them, or add them to the model first (trl.clone_chat_template), save "
                "it, and name that folder as model_name_or_path"
            )
        tokenizer.chat_template, tokenizer.eos_token = source.chat_template, source.eos_token
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateSyntaxError as error:
        raise ValueError(f"chat_template_path={place!r}, line {error.lineno}: {error.message}; correct it") from error
    except TemplateError:
        # It refuses this conversation: rows are checked one by one.
        return


def _source(place: str) -> PreTrainedTokenizerBase:
    try:
        source: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"chat_template_path={place!r} is neither a file that ends in .jinja or .j2, nor a folder or a name on the "
            "hub with a tokenizer that is at hand"
        ) from error
    if source.chat_template is None:
        raise ValueError(
            f"chat_template_path={place!r}: its tokenizer has no chat template; name one that has, or a .jinja file"
        )
    return source
