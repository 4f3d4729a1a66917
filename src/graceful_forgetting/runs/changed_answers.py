"""Test rows on which plain fine-tuning and the run's own method do not answer the same, from the stored evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graceful_forgetting.evaluation.likelihood import completion_text
from graceful_forgetting.results.arms import OWN
from graceful_forgetting.results.result import Role
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runtime.artifacts import read_json

# Lines of the terminal: rows of the learning task, and letters of a text.
TOLD, WIDTH = 3, 100
# Of a task: rows that became better, worse, or neither.
SHOWN = {"better": 10, "worse": 10, "neither": 5}


@dataclass(frozen=True)
class ChangedAnswer:
    """One test row: its prompt (text or messages), both answers, the right one, and whether the own method's is better.

    `plain_score`, `own_score`: 1 or 0, token F1, or chrF. `plain_is_old`, `own_is_old`: whether it is the row's old
    answer.
    """

    prompt: Any
    plain: str
    own: str
    right: str
    change: str
    plain_score: float
    own_score: float
    plain_is_old: bool = False
    own_is_old: bool = False


@dataclass(frozen=True)
class ChangedAnswers:
    """Of one task and seed: how many of `total` answers are better, worse and neither, and some rows of each kind."""

    task: str
    role: Role
    seed: int
    total: int
    counts: Mapping[str, int]
    rows: Sequence[ChangedAnswer]


def changed_answers(pipeline: Pipeline) -> list[ChangedAnswers]:
    """Of the first seed, every task whose answers were generated, or chosen by likelihood."""
    seed = pipeline.seeds[0]
    plain, own = (read_json(pipeline.evaluation(arm, seed).path / "items.json") for arm in ("plain", OWN))
    return [
        _of_task(name, role, seed, list(rows), plain[name], own[name])
        for name, (rows, role, _) in pipeline.inputs.test_sets.items()
        if plain[name]["generated"] is not None or plain[name]["choice_correct"] is not None
    ]


def answers_text(answers: Sequence[ChangedAnswers], own: str) -> str:
    """A few answers of the learning task that changed, side by side, for a terminal; empty where none did.

    Args:
        answers: of all tasks.
        own: what the run's own method is called.
    """
    told = next((task for task in answers if task.role == "learning" and task.rows), None)
    if told is None:
        return ""
    counts = told.counts
    lines = [
        f"Answers to {told.task}, seed {told.seed}: {own} answers {counts['better']} of {told.total} better than "
        f"plain, {counts['worse']} worse"
    ]
    width = max(len(name) for name in ("question", "plain", "right", own))
    for row in told.rows[:TOLD]:
        named = {"question": _last_turn(row.prompt), "plain": row.plain, own: row.own, "right": row.right}
        marks = {"plain": " (old)" if row.plain_is_old else "", own: " (old)" if row.own_is_old else ""}
        lines += ["", *(f"  {name:{width}}  {_one_line(text)}{marks.get(name, '')}" for name, text in named.items())]
    return "\n".join(lines)


def _last_turn(prompt: Any) -> str:
    return str(prompt if isinstance(prompt, str) else prompt[-1]["content"])


def _one_line(text: str) -> str:
    """The end of `text` in one line, and nothing that would steer a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= WIDTH else f"…{line[1 - WIDTH :]}"


def _of_task(
    name: str, role: Role, seed: int, rows: list[dict[str, Any]], plain: dict[str, Any], own: dict[str, Any]
) -> ChangedAnswers:
    (before, before_scores), (after, after_scores) = _answers(plain, rows), _answers(own, rows)
    # Evaluations of before the field was added lack it.
    before_old, after_old = (items.get("old") or [False] * len(rows) for items in (plain, own))
    found: dict[str, list[ChangedAnswer]] = {kind: [] for kind in SHOWN}
    for place, (row, plainly, own_way) in enumerate(zip(rows, before, after, strict=True)):
        if plainly != own_way:
            scores = before_scores[place], after_scores[place]
            kind = "better" if scores[1] > scores[0] else "worse" if scores[1] < scores[0] else "neither"
            right = completion_text(row["completion"]).strip()
            old = before_old[place], after_old[place]
            found[kind].append(ChangedAnswer(row["prompt"], plainly, own_way, right, kind, *scores, *old))
    shown = [answer for kind, most in SHOWN.items() for answer in found[kind][:most]]
    return ChangedAnswers(name, role, seed, len(rows), {kind: len(each) for kind, each in found.items()}, shown)


def _answers(items: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[float]]:
    """The answer to every row and its score: generated, else the option of highest likelihood per byte."""
    if items["generated"] is not None:
        return [text.strip() for text in items["generated"]], items["score"]
    chosen = []
    for row, likelihoods in zip(rows, items["choice_log_likelihoods"], strict=True):
        per_byte = [value / len(text.encode()) for value, text in zip(likelihoods, row["choices"], strict=True)]
        chosen.append(row["choices"][per_byte.index(max(per_byte))].strip())
    return chosen, [float(right) for right in items["choice_correct"]]
