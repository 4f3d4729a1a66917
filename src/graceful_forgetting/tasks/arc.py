"""ARC-Easy (Clark et al., arXiv 1803.05457): grade-school science questions, mostly with four options.

The form of a row is that of `multiple_choice.py`.
"""

from graceful_forgetting.tasks.multiple_choice import keyed_row, letter_parser
from graceful_forgetting.tasks.task import Task

ARC_EASY = Task(
    name="arc_easy",
    description="grade-school science questions with three to five options",
    licence="CC BY-SA 4.0",
    hub_id="allenai/ai2_arc",
    hub_configs=("ARC-Easy",),
    splits={"train": "train", "test": "test"},
    columns=("id", "question", "choices", "answerKey"),
    format_row=lambda row: keyed_row(row, "question"),
    parse_answer=letter_parser("ABCDE"),
    metric="accuracy",
    id_column="id",
)
