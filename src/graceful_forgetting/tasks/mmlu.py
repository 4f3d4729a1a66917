"""MMLU (Hendrycks et al., ICLR 2021, arXiv 2009.03300): four-option questions, by subject; the form of a row is that
of `multiple_choice.py`.

`mmlu:anatomy` is one subject: its few `dev` and `validation` rows to learn from, its test rows to test on.

`psychol` pools every labelled row of high school psychology and of professional psychology (1,296 rows), and divides
them by a hash of the question, about 4 : 1. **The division is ours**: rows of MMLU's test split are learned from, so
that no MMLU score may be reported after training on it. A question that occurs twice is on one side.
"""

from hashlib import blake2b
from typing import Any

from graceful_forgetting.tasks.multiple_choice import choice_row, letter_parser
from graceful_forgetting.tasks.task import Row, Split, Task, text_of

SUBJECTS = (
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
)
_COLUMNS = ("question", "choices", "answer")
_TEST_SHARE = 5


def _format(row: Row) -> dict[str, Any]:
    return choice_row(row["question"], row["choices"], row["answer"], "answer")


def divide_by_question(row: Row) -> Split:
    """'test' for about one question in five, by a hash of its text without surrounding white space."""
    digest = blake2b(text_of(row, "question").strip().encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "little") % _TEST_SHARE == 0 else "train"


def mmlu_task(subject: str) -> Task:
    """One subject of MMLU (see `SUBJECTS`)."""
    return Task(
        name=f"mmlu:{subject}",
        description=f"{subject.replace('_', ' ')} questions of MMLU with four options",
        licence="MIT",
        hub_id="cais/mmlu",
        hub_configs=(subject,),
        splits={"train": "dev+validation", "test": "test"},
        columns=_COLUMNS,
        format_row=_format,
        parse_answer=letter_parser("ABCD"),
        metric="accuracy",
    )


PSYCHOL = Task(
    name="psychol",
    description="psychology questions of MMLU (high school and professional) with four options, divided by us",
    licence="MIT",
    hub_id="cais/mmlu",
    hub_configs=("high_school_psychology", "professional_psychology"),
    splits={"train": "dev+validation+test", "test": "dev+validation+test"},
    divide=divide_by_question,
    columns=_COLUMNS,
    format_row=_format,
    parse_answer=letter_parser("ABCD"),
    metric="accuracy",
)
