"""Where an answer ends in tokens, and how generated tokens are read as its text.

Given answers and generated ones are read by the same `AnswerReader`, so that an answer that a model was trained to give
counts as right.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from graceful_forgetting.data.encoding import EncodedRow, template_kwargs
from graceful_forgetting.runtime.progress import DELAY, progress_bar

# Stands in for an answer; no template has the word.
_ANSWER = "zqzq"
# Answers that are decoded between two movements of a bar.
_TOGETHER = 1000


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a completion, joined over its turns where it is a conversation."""
    return completion if isinstance(completion, str) else "".join(turn["content"] for turn in completion)


def special_token_ids(processing_class: PreTrainedTokenizerBase) -> set[int]:
    """Ids of tokens that the tokenizer holds as special."""
    added = {id for id, token in processing_class.added_tokens_decoder.items() if token.special}
    return added | set(processing_class.all_special_ids)


def turn_end(row: Mapping[str, Any], processing_class: PreTrainedTokenizerBase) -> int | None:
    """The token by which the chat template ends an answer to `row["prompt"]`, a list of messages.

    It may be another than the tokenizer's EOS token (`<|eot_id|>` beside `<|end_of_text|>`). None where the template
    ends the turn with nothing, or with plain text.
    """
    messages = [*row["prompt"], {"role": "assistant", "content": _ANSWER}]
    text = processing_class.apply_chat_template(messages, tokenize=False, **template_kwargs(row))
    _, found, after = str(text).rpartition(_ANSWER)
    if not found:
        return None
    ids = processing_class(text=after, add_special_tokens=False)["input_ids"] if after else []
    added = set(processing_class.added_tokens_decoder) | special_token_ids(processing_class)
    return next((id for id in ids if id in added), None)


def answer_ends(
    processing_class: PreTrainedTokenizerBase, prompts: Sequence[Mapping[str, Any]], answers: Sequence[EncodedRow] = ()
) -> frozenset[int]:
    """Tokens that end an answer to these prompts: the EOS token, that of the chat template, and, of texts, a special
    token with which all given answers end.

    Args:
        processing_class: the tokenizer.
        prompts: rows with `prompt`, all of one form.
        answers: the given ones.
    """
    ends = {processing_class.eos_token_id}
    if not isinstance(prompts[0]["prompt"], str):
        ends.add(turn_end(prompts[0], processing_class))
    else:
        ends.add(_shared_end([row.ids[row.start :] for row in answers], processing_class))
    return frozenset(ends - {None})


def _shared_end(answers: Sequence[list[int]], processing_class: PreTrainedTokenizerBase) -> int | None:
    contents = [until(ids, {processing_class.eos_token_id}) for ids in answers]
    ends = {ids[-1] if len(ids) > 1 else None for ids in contents}
    # Of answers that are all the same, the last token may be what they say.
    if len(ends) != 1 or len({tuple(ids) for ids in contents}) < 2:
        return None
    (end,) = ends
    return end if end in special_token_ids(processing_class) else None


def until(ids: Sequence[int], ends: Iterable[int]) -> list[int]:
    """`ids` before the first of `ends`."""
    ends = set(ends)
    return list(ids[: next((place for place, id in enumerate(ids) if id in ends), len(ids))])


class AnswerReader:
    """Reads tokens as the text of an answer.

    Read is what stands before the first token that ends an answer, and after what the chat template opens answers with
    (an empty thinking block, the name of a channel). Where a model writes more there than the template does, such as
    thoughts, the template's last token before the answer tells where that begins. Special tokens are left out, but
    those that occur in given answers.

    Args:
        processing_class: the tokenizer.
        ends: tokens that end an answer.
        given: texts of given answers, and their tokens where they are known (`ids` from where the answer begins).

    Attributes:
        given_texts: what `texts` makes of the tokens of `given`.
    """

    def __init__(
        self,
        processing_class: PreTrainedTokenizerBase,
        ends: Iterable[int],
        given: Sequence[tuple[str, Sequence[int]]] = (),
    ):
        self._processing_class = processing_class
        self._ends = frozenset(ends)
        decoder = processing_class.added_tokens_decoder
        special = {str(processing_class.convert_ids_to_tokens(id)): id for id in special_token_ids(processing_class)}
        self._end_texts = [name for name, id in special.items() if id in self._ends]
        # The longest first, since one name may begin with another.
        names = sorted((name for name, id in special.items() if id not in self._ends), key=len, reverse=True)
        texts = [self.without_end(text) for text, _ in given]
        found = set(re.findall("|".join(map(re.escape, names)), "\n".join(texts))) if names else set()
        self._dropped = set(special.values()) - {special[name] for name in found}
        self._leads: list[list[int]] = []
        answers = [until(ids, self._ends) for _, ids in given]
        self.given_texts = self._decoded(answers)
        for text, ids, read in zip(texts, answers, self.given_texts, strict=True):
            lead = [] if read.strip() == text.strip() else self._lead(ids, text.strip())
            if lead and lead not in self._leads:
                self._leads.append(lead)
        self._marks = {lead[-1] for lead in ([id for id in lead if id in decoder] for lead in self._leads) if lead}
        if self._leads:
            self.given_texts = self.texts(answers)

    def without_end(self, text: str) -> str:
        """`text` without tokens at its end that end an answer, written out."""
        while any(text.rstrip().endswith(end) for end in self._end_texts):
            end = next(end for end in self._end_texts if text.rstrip().endswith(end))
            text = text.rstrip().removesuffix(end)
        return text

    def reference(self, text: str) -> str:
        """What of a given text generated answers are compared with: no end, and no thoughts where those are skipped."""
        text = self.without_end(text)
        for mark in self._processing_class.convert_ids_to_tokens(sorted(self._marks)):
            text = text.rpartition(mark)[2]
        return text

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The text of each answer."""
        return self._decoded([self._after_lead(until(ids, self._ends)) for ids in answers])

    def texts_or_tokens(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """`texts`; of an answer that is special tokens alone, these, without those for padding and the like."""
        control = {
            self._processing_class.convert_tokens_to_ids(name)
            for name in self._processing_class.special_tokens_map.values()
            if isinstance(name, str)
        }
        found = self.texts(answers)
        for place, (text, ids) in enumerate(zip(found, answers, strict=True)):
            if not text.strip():
                shown = [id for id in until(ids, self._ends) if id not in control]
                found[place] = str(self._processing_class.decode(shown, clean_up_tokenization_spaces=False))
        return found

    def _decoded(self, answers: list[list[int]]) -> list[str]:
        kept = [[id for id in ids if id not in self._dropped] for ids in answers]
        texts: list[str] = []
        with progress_bar("reading answers", "answers", len(kept), delay=DELAY) as bar:
            for start in range(0, len(kept), _TOGETHER):
                part = kept[start : start + _TOGETHER]
                # Cleaning up would change what is read: ' ,' into ','.
                texts += self._processing_class.batch_decode(part, clean_up_tokenization_spaces=False)
                bar.update(len(part))
        return texts

    def _after_lead(self, ids: list[int]) -> list[int]:
        lead = next((lead for lead in self._leads if ids[: len(lead)] == lead), None)
        if lead is not None:
            return ids[len(lead) :]
        last = max((place for place, id in enumerate(ids) if id in self._marks), default=-1)
        return ids[last + 1 :]

    def _lead(self, ids: list[int], text: str) -> list[int]:
        """What stands before `text` in the tokens of a given answer."""
        for known in self._leads:
            if ids[: len(known)] == known and self._decoded([ids[len(known) :]])[0].strip() == text:
                return known
        for start in range(len(ids) - 1, 0, -1):
            if self._decoded([ids[start:]])[0].strip() == text:
                return ids[:start]
        return []
