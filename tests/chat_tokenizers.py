"""Tokenizers as chat models have them, built in code: byte-level and Metaspace, with templates of three families."""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

# Words with a space before them become single tokens, as in large vocabularies; digits do not, as in Llama's.
CORPUS = [
    "The capital of France is Paris. The capital of Italy is Rome. Madrid Oslo Lima Berlin Peru Spain Norway Germany",
    "user system assistant model final analysis Question: Answer: four two yes no (yes or no) a, b. don't",
] * 5

# Qwen3: the last turn of the assistant opens with its thoughts, also where there are none; earlier turns lose theirs.
QWEN3 = """\
{%- set last = namespace(query=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set last.query = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.role == 'assistant' and loop.index0 > last.query -%}
{%- set thoughts = m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '' -%}
{{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- said + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# Llama 3: turns end with <|eot_id|>, and texts with <|end_of_text|>.
LLAMA3 = """\
{{- bos_token -}}
{%- for m in messages -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n' + m.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n' -}}{%- endif -%}"""

# GPT-OSS: answers stand in a channel, whose name is plain text between special tokens.
CHANNELS = """\
{%- for m in messages -%}
{{- '<|start|>' + m.role + ('<|channel|>final' if m.role == 'assistant' else '') + '<|message|>' + m.content -}}
{{- '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"""

# DeepSeek R1: the model is made to think by a generation prompt that no trained row has.
PREFILLED = """\
{%- for m in messages -%}{{- '<|' + m.role + '|>' + m.content + (eos_token if m.role == 'assistant' else '') -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|><think>\\n' -}}{%- endif -%}"""

# The last turn of the user is marked as such, and no longer once an answer follows.
LAST_MARKED = """\
{%- for m in messages -%}
{{- '<|im_start|>' + ('last ' if loop.last and m.role == 'user' else '') + m.role + '\\n' -}}
{{- m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


def byte_level(
    chat_template: str | None = None,
    *,
    eos: str = "<|endoftext|>",
    bos: str | None = None,
    special: Sequence[str] = (),
    plain: Sequence[str] = (),
    appends_eos: bool = False,
) -> PreTrainedTokenizerFast:
    """Bytes and merges, as GPT-2, Llama 3 and Qwen have them.

    Args:
        chat_template: with the tokens below.
        eos, bos: texts of these tokens.
        special: further special tokens.
        plain: further single tokens that are not special, as Qwen's `<think>`.
        appends_eos: put `eos` after every text.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _trained(backend, chat_template, eos, bos, special, plain, appends_eos, pre_tokenizers.ByteLevel.alphabet())


def metaspace(
    chat_template: str | None = None, *, special: Sequence[str] = (), appends_eos: bool = False, prefix: bool = True
) -> PreTrainedTokenizerFast:
    """Words with ▁ for the space before them and `<s>` before every text, as Llama 2 (with `prefix`) and Gemma."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never")
    own: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(own + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    codes = ["<unk>", *(f"<0x{code:02X}>" for code in range(256))]
    return _trained(backend, chat_template, "</s>", "<s>", [*special, *codes], (), appends_eos, [])


def _trained(
    backend: Tokenizer,
    chat_template: str | None,
    eos: str,
    bos: str | None,
    special: Sequence[str],
    plain: Sequence[str],
    appends_eos: bool,
    alphabet: list[str],
) -> PreTrainedTokenizerFast:
    names = [eos, *([] if bos is None else [bos]), *special]
    trainer = BpeTrainer(vocab_size=700, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    around = {"bos": bos if bos == "<s>" else None, "eos": eos if appends_eos else None}
    if any(around.values()):
        single = " ".join(filter(None, (around["bos"], "$A", around["eos"])))
        ids = [(name, backend.token_to_id(name)) for name in around.values() if name]
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    names_of = {"eos_token": eos, "pad_token": eos} | ({} if bos is None else {"bos_token": bos})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names_of)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def qwen3_like() -> PreTrainedTokenizerFast:
    """With an empty thinking block before answers; `<think>` and `</think>` are no special tokens."""
    return byte_level(QWEN3, eos="<|im_end|>", special=["<|im_start|>"], plain=["<think>", "</think>"])


def llama3_like() -> PreTrainedTokenizerFast:
    """The token that ends a turn is not the EOS token."""
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level(LLAMA3, eos="<|end_of_text|>", bos="<|begin_of_text|>", special=headers)


def channels_like() -> PreTrainedTokenizerFast:
    """The name of a channel stands before answers."""
    return byte_level(CHANNELS, special=["<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|end|>"])


def prefilled_like() -> PreTrainedTokenizerFast:
    """The generation prompt goes on where the trained row has the answer."""
    return byte_level(PREFILLED, special=["<|user|>", "<|assistant|>"], plain=["<think>", "</think>"])


def last_marked() -> PreTrainedTokenizerFast:
    """The last turn of the user is rendered otherwise than the same turn before an answer."""
    return byte_level(LAST_MARKED, eos="<|im_end|>", special=["<|im_start|>"])
