"""XQuAD (Artetxe et al., ACL 2020, arXiv 1910.11856): questions on a paragraph, the same in several languages.

    prompt      "Context: <paragraph>\\nQuestion: <question>\\nAnswer:"
    completion  " Computational complexity theory"
    answer      "Computational complexity theory"

Every question has one reference answer. The hub has one split, `validation` (1,190 questions on 48 articles). **The
division is ours**: the questions on every fifth article (199, by id in `xquad_test_ids.txt`) are the test split, the
same in every language.
"""

from functools import cache
from pathlib import Path
from typing import Any

from graceful_forgetting.tasks.task import Row, Split, Task, first_line, text_of

LANGUAGES = {"en": "English", "de": "German", "zh": "Chinese"}


@cache
def _test_ids() -> frozenset[str]:
    return frozenset((Path(__file__).parent / "xquad_test_ids.txt").read_text(encoding="utf-8").split())


def divide_by_article(row: Row) -> Split:
    """'test' for the questions whose id is in `xquad_test_ids.txt`."""
    return "test" if row["id"] in _test_ids() else "train"


def _format(row: Row) -> dict[str, Any]:
    answers = row["answers"]
    if not isinstance(answers, dict) or not answers.get("text") or not isinstance(answers["text"][0], str):
        raise ValueError(f"answers={answers!r} has no text")
    answer = answers["text"][0].strip()
    context, question = (" ".join(text_of(row, column).split()) for column in ("context", "question"))
    return {
        "prompt": f"Context: {context}\nQuestion: {question}\nAnswer:",
        "completion": f" {answer}",
        "answer": answer,
    }


def xquad_task(language: str) -> Task:
    """XQuAD in one language (see `LANGUAGES`)."""
    return Task(
        name=f"xquad:{language}",
        description=f"questions on a paragraph, in {LANGUAGES[language]}",
        licence="CC BY-SA 4.0",
        hub_id="google/xquad",
        hub_configs=(f"xquad.{language}",),
        splits={"train": "validation", "test": "validation"},
        divide=divide_by_article,
        columns=("id", "context", "question", "answers"),
        format_row=_format,
        parse_answer=first_line,
        metric="f1",
        id_column="id",
        language=language,
    )
