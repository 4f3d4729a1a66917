"""Which generated answers are the old one: what knowledge that is wrong now would say."""

from collections.abc import Sequence

from datasets import Dataset

from graceful_forgetting.data import AnswerReader
from graceful_forgetting.tasks import Task, read_answer

OLD_ANSWER = "old_answer"


def gives_old_answer(
    texts: Sequence[str], right: Sequence[bool], rows: Dataset, task: Task | None, reader: AnswerReader | None = None
) -> list[bool] | None:
    """Whether each generated text is read as the old answer of its row is; None where no row has one.

    Args:
        texts: generated, one a row.
        right: whether each is the right answer, which is never the old one.
        rows: with column `old_answer`, null where nothing is old.
        task: how answers are read; none: the stripped text.
        reader: of the generated tokens; it takes the end of the turn off an old answer that is written with it.
    """
    known = rows[OLD_ANSWER][:] if OLD_ANSWER in rows.column_names else []
    if not any(old is not None for old in known):
        return None

    def read(text: str) -> str | None:
        return text.strip() if task is None else read_answer(task, text)

    found = []
    for text, is_right, old in zip(texts, right, known, strict=True):
        if is_right or old is None:
            found.append(False)
            continue
        before = read(old if reader is None else reader.reference(old))
        found.append(before is not None and read(text) == before)
    return found
