"""Translation of Tatoeba sentences from German to English (tatoeba.org).

    prompt      "German: Tom ist verrückt.\\nEnglish:"
    completion  " Tom is crazy."
    answer      "Tom is crazy."

A row holds `translation` with `de` and `en` (the form of OPUS data sets on the hub), or `english` and `non_english`
(the form of the hub data set that is loaded, whose `dev` split is the task's test split).
"""

from typing import Any

from graceful_forgetting.tasks.task import Row, Task, first_line


def _format(row: Row) -> dict[str, Any]:
    pair = row.get("translation") or {"de": row.get("non_english"), "en": row.get("english")}
    german, english = pair.get("de"), pair.get("en")
    if not isinstance(german, str) or not isinstance(english, str):
        raise ValueError(
            "needs `translation` with texts `de` and `en`, or `english` and `non_english`; "
            f"present: {', '.join(sorted(row)) or 'none'}"
        )
    german, english = " ".join(german.split()), " ".join(english.split())
    return {"prompt": f"German: {german}\nEnglish:", "completion": f" {english}", "answer": english}


TATOEBA_DE_EN = Task(
    name="tatoeba_de_en",
    description="short German sentences, translated into English",
    licence="CC BY 2.0 FR",
    hub_id="sentence-transformers/parallel-sentences-tatoeba",
    hub_configs=("en-de",),
    splits={"train": "train", "test": "dev"},
    columns=(),
    format_row=_format,
    parse_answer=first_line,
    metric="chrf",
)
