"""QASC (Khot et al., AAAI 2020, arXiv 1910.11473): eight-option questions of grade-school science.

The form of a row is that of `multiple_choice.py`; the facts that a question was made from are left out. The hub's
test split has no answers: the task's test split is the hub's `validation`.
"""

from graceful_forgetting.tasks.multiple_choice import keyed_row, letter_parser
from graceful_forgetting.tasks.task import Task

QASC = Task(
    name="qasc",
    description="grade-school science questions that join two facts, with eight options",
    licence="CC BY 4.0",
    hub_id="allenai/qasc",
    splits={"train": "train", "test": "validation"},
    columns=("id", "question", "choices", "answerKey"),
    format_row=lambda row: keyed_row(row, "question"),
    parse_answer=letter_parser("ABCDEFGH"),
    metric="accuracy",
    id_column="id",
)
