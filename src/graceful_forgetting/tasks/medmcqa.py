"""MedMCQA (Pal et al., CHIL 2022): four-option questions of medical entrance exams, by subject.

`dental` is its Dental subject; `medmcqa` all of it, and `medmcqa:psychiatry` one subject. The form of a row is that
of `multiple_choice.py`.

The hub's test split has no answers (`cop` = -1): the task's test split is the hub's `validation`.
"""

import re
from typing import Any

from graceful_forgetting.tasks.multiple_choice import choice_row, letter_parser
from graceful_forgetting.tasks.task import Row, Task

_OPTIONS = ("opa", "opb", "opc", "opd")
SUBJECTS = (
    "Anaesthesia",
    "Anatomy",
    "Biochemistry",
    "Dental",
    "ENT",
    "Forensic Medicine",
    "Gynaecology & Obstetrics",
    "Medicine",
    "Microbiology",
    "Ophthalmology",
    "Orthopaedics",
    "Pathology",
    "Pediatrics",
    "Pharmacology",
    "Physiology",
    "Psychiatry",
    "Radiology",
    "Skin",
    "Social & Preventive Medicine",
    "Surgery",
    "Unknown",
)


def subject_key(subject: str) -> str:
    """'Social & Preventive Medicine' -> 'social_preventive_medicine', as a task name has it."""
    return re.sub(r"[^a-z]+", "_", subject.lower())


SUBJECT_KEYS = {subject_key(subject): subject for subject in SUBJECTS}


def _format(row: Row) -> dict[str, Any]:
    return choice_row(row["question"], [row[option] for option in _OPTIONS], row["cop"], "cop")


def medmcqa_task(subject: str | None = None, name: str | None = None) -> Task:
    """All of MedMCQA, or one subject by its key (see `SUBJECT_KEYS`); `name` is the task's own name."""
    full = None if subject is None else SUBJECT_KEYS[subject]
    questions = "questions" if full is None else f"{full} questions"
    return Task(
        name=name or ("medmcqa" if subject is None else f"medmcqa:{subject}"),
        description=f"{questions} of MedMCQA with four options",
        licence="MIT (repository), Apache-2.0 (hub card)",
        hub_id="openlifescienceai/medmcqa",
        splits={"train": "train", "test": "validation"},
        folder=name or "medmcqa",
        columns=("id", "question", *_OPTIONS, "cop", "subject_name"),
        format_row=_format,
        parse_answer=letter_parser("ABCD"),
        metric="accuracy",
        row_filter=None if full is None else lambda row: row["subject_name"] == full,
        id_column="id",
    )


DENTAL = medmcqa_task("dental", "dental")
MEDMCQA = medmcqa_task()
