"""OpenBookQA (Mihaylov et al., EMNLP 2018, arXiv 1809.02789): elementary science, without the book of facts.

The form of a row is that of `multiple_choice.py`; the question may be the beginning of a sentence that an option
ends.
"""

from graceful_forgetting.tasks.multiple_choice import keyed_row, letter_parser
from graceful_forgetting.tasks.task import Task

OPENBOOKQA = Task(
    name="openbookqa",
    description="elementary science questions with four options",
    licence="Apache-2.0 (repository), unknown (hub card)",
    hub_id="allenai/openbookqa",
    hub_configs=("main",),
    splits={"train": "train", "test": "test"},
    columns=("id", "question_stem", "choices", "answerKey"),
    format_row=lambda row: keyed_row(row, "question_stem"),
    parse_answer=letter_parser("ABCD"),
    metric="accuracy",
    id_column="id",
)
