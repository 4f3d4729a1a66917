"""Rendering the report: one HTML file that needs no network, no other file and no server."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graceful_forgetting.report import plots
from graceful_forgetting.report.headline import compared, headline, interval_text, verdict_of
from graceful_forgetting.report.measures import general_measures, run_measures, task_measures
from graceful_forgetting.report.samples import (
    ENDS,
    ScoredSamples,
    as_text,
    kinds_at_the_top,
    read_samples,
    sample_table,
    thin_out,
)
from graceful_forgetting.report.scores import score_label
from graceful_forgetting.report.svg import Figure
from graceful_forgetting.results.arms import arm_titles, capitalised, method_title
from graceful_forgetting.results.next_steps import next_steps
from graceful_forgetting.results.result import RunResult, SelectionResult, TaskSummary
from graceful_forgetting.results.text import duration, fixed, number, percent, setting, signed, size, timestamp
from graceful_forgetting.runtime.artifacts import atomic_file
from graceful_forgetting.runtime.own_files import claim_file, page_sign

if TYPE_CHECKING:
    from datasets import Dataset

    from graceful_forgetting.runs.changed_answers import ChangedAnswers

EXCERPT = 600


def render_report(
    result: RunResult, samples: "Dataset | None", path: str | Path, answers: "Sequence[ChangedAnswers]" = ()
) -> Path:
    """Write the report of `result` to `path` and return it.

    Args:
        result: what the experiment measured.
        samples: the scored self-knowledge, one row a sample, with `REQUIRED_COLUMNS` of `samples.py` and, if there,
            `loss`. None leaves out the charts and the table made from them.
        path: the HTML file; an earlier report is replaced.
        answers: test rows on which plain fine-tuning and the method do not answer the same.

    Every text from data is escaped, and a content security policy lets nothing run or load but the report's
    own script. Of more than 10,000 samples the table has the highest and lowest scores and some between. Long texts
    are cut if they do not fit. The report says so where it happens.

    Raises:
        ValueError: `samples` lacks a column.
        FileExistsError: there is another file at `path`.
    """
    scored = None if samples is None else read_samples(samples)
    return write_page("report.html", _context(result, scored, answers), path)


def write_page(template: str, context: Mapping[str, Any], path: str | Path) -> Path:
    """Fill a template of the package and write it to `path`, atomically; returns `path`.

    Raises `FileExistsError` where there is anything but an earlier page of this template.
    """
    claim_file(path, page_sign(template))
    sign = Markup(page_sign(template).decode())
    text = _environment().get_template(template).render(**_assets(), sign=sign, **context)
    with atomic_file(path) as partial:
        partial.write_bytes(text.encode("utf-8", "replace"))  # a lone surrogate from JSON has no UTF-8 form
    return Path(path)


def _environment() -> Environment:
    """Templates of the package, escaping everything, with the filters that they use."""
    environment = Environment(
        loader=PackageLoader("graceful_forgetting.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (_excerpt, duration, fixed, number, percent, setting, signed, size, timestamp)
    environment.filters |= {"json": json.dumps, **{text.__name__.removeprefix("_"): text for text in filters}}
    return environment


def _asset(name: str) -> tuple[Markup, str]:
    """A style sheet or script of the package, and its hash for the content security policy."""
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return Markup(text), f"sha256-{digest}"


def _assets() -> dict[str, Any]:
    """Style sheet and script of every report, and their hashes, by the names that the templates use."""
    style, style_hash = _asset("report.css")
    script, script_hash = _asset("report.js")
    return {"style": style, "style_hash": style_hash, "script": script, "script_hash": script_hash}


def _context(result: RunResult, samples: ScoredSamples | None, answers: "Sequence[ChangedAnswers]") -> dict[str, Any]:
    by_role = {
        role: {task: summary for task, summary in result.summary.tasks.items() if summary.role in roles}
        for role, roles in (("learning", ["learning"]), ("forgetting", ["forgetting", "other"]))
    }
    names, method = long_titles(result.config), method_title(result.config)
    score = score_label(result.config)
    kinds = {} if result.selection is None else _known_kinds(result.selection)
    table, columns = (None, []) if samples is None else sample_table(samples, score, kinds)
    old = _shares(result, "old")
    return {
        "result": result,
        "learning": by_role["learning"],
        "forgetting": by_role["forgetting"],
        "headlines": {task: headline(task, summary, method) for task, summary in by_role["learning"].items()},
        "learning_figures": {
            # Without the base model: it has not learned the task and would stretch the axis.
            task: plots.arm_dots(f"{task}: every seed", {task: summary}, without_base(names))
            for task, summary in by_role["learning"].items()
        },
        "forgetting_figures": _forgetting_figures(by_role["forgetting"], names),
        "curve_figures": _curve_figures(result, names),
        "sample_figures": [] if samples is None else _sample_figures(result, samples),
        "score": score,
        "compared": compared(result),
        "next_steps": next_steps(result),
        "answers": answers,
        "top": {} if samples is None or not kinds else kinds_at_the_top(samples, kinds),
        "table": table,
        "ends": ENDS,
        "sample_columns": columns,
        "task_measures": task_measures(result.runs),
        "general_measures": general_measures(result.runs),
        "run_measures": run_measures(result.runs),
        "arm_names": names,
        "method": method,
        "arms": [arm for arm in names if any(run.arm == arm for run in result.runs)],
        "metric_names": plots.METRIC_NAMES,
        "interval_text": interval_text,
        "verdict_of": verdict_of,
        "unparsable": _shares(result, "unparsable"),
        "old": old,
        "tasks_with_old": {task for task, _ in old},
        "guarded": [run for run in result.runs if run.events()],
        "longest_stage": max((stage.seconds for stage in result.stages), default=0.0),
        "total_seconds": sum(stage.seconds for stage in result.stages),
    }


def _known_kinds(selection: SelectionResult) -> dict[str, str]:
    return {name: task.kind for name, task in selection.tasks.items() if task.kind is not None}


def _excerpt(value: Any) -> str:
    """A prompt or answer of a test row, cut where a table has no room for more."""
    text = as_text(value)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


def long_titles(*configs: Mapping[str, Any]) -> dict[str, str]:
    """`arm_titles` as headings and labels of a report."""
    titles = arm_titles(*configs) | {"plain": "plain fine-tuning"}
    return {arm: capitalised(title) for arm, title in titles.items()}


def without_base(names: Mapping[str, str]) -> dict[str, str]:
    """Arms that were trained."""
    return {arm: name for arm, name in names.items() if arm != "base"}


def _forgetting_figures(tasks: Mapping[str, TaskSummary], names: Mapping[str, str]) -> list[Figure]:
    figures = []
    for metric, metric_name in plots.METRIC_NAMES.items():
        chosen = {task: summary for task, summary in tasks.items() if summary.metric == metric}
        figure = plots.arm_dots(f"Other tasks: {metric_name}", chosen, names)
        figures += [figure] if figure else []
    return figures


def _curve_figures(result: RunResult, names: Mapping[str, str]) -> list[Figure]:
    runs = result.runs
    drawn = [
        plots.curves("Learning loss", runs, lambda entry: entry.loss, names),
        plots.curves(
            "Unlearning loss",
            runs,
            lambda entry: entry.unlearn_loss,
            names,
            caption="Loss on the samples being unlearned: it rises as they are forgotten.",
        ),
        plots.curves("Gradient norm, learning", runs, lambda entry: entry.grad_norm, names, wide_range=True),
        plots.curves("Gradient norm, unlearning", runs, lambda entry: entry.unlearn_grad_norm, names, wide_range=True),
    ]
    return [figure for figure in drawn if figure]


def _sample_figures(result: RunResult, samples: ScoredSamples) -> list[Figure]:
    cut = None if result.selection is None else result.selection.cut
    drawn = [plots.score_histogram(samples, cut, score_label(result.config)), plots.confidence_terms(thin_out(samples))]
    return [figure for figure in drawn if figure]


def _shares(result: RunResult, name: Literal["unparsable", "old"]) -> dict[tuple[str, str], float]:
    """Share of the answers that this field of the metrics counts, by (task, arm), over all seeds that measured it."""
    counts: dict[tuple[str, str], list[int]] = {}
    for run in result.runs:
        for task, metrics in run.metrics.items():
            count = metrics.unparsable if name == "unparsable" else metrics.old
            if count is not None:
                sums = counts.setdefault((task, run.arm), [0, 0])
                sums[0] += count
                sums[1] += metrics.total
    return {key: count / total for key, (count, total) in counts.items() if total}
