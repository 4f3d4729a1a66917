"""Tables over tasks of real text."""

from dataclasses import replace
from statistics import fmean

from evidence.tables.over_tasks import (
    bits_saved,
    choice_accuracy,
    methods_by_forgetting,
    neutral_bits_saved,
    task_matrix,
)
from graceful_forgetting.results.result import ChoiceMetrics
from graceful_forgetting.sweeps.comparison import groups_of
from sweep_data import cell


def matrix():
    """Two tasks, each learned while the other may be forgotten; bits by task, method and seed."""
    cells = []
    for learned, forgotten, base in (("sums", "tales", 2.0), ("tales", "sums", 3.0)):
        for method, less in (("plain", 0.0), ("lwf", 0.1)):
            for seed in (0, 1):
                one = cell(method, seed, learned)
                metrics = replace(one.metrics[one.learning_task], bits_per_byte=base - less * (1 + seed))
                metrics.choice = ChoiceMetrics(0.5, 0.5, 0.25, 0.3 + less, 0.3) if learned == "sums" else None
                own = {**one.metrics, one.learning_task: metrics}
                neutral = 4.0 + less * (1 + seed) if learned == "sums" else None
                cells.append(replace(one, forgetting=forgotten, metrics=own, neutral_bits_per_byte=neutral))
    return groups_of(cells)


def line(table: str, name: str) -> list[str]:
    (found,) = [row for row in table.splitlines() if row.startswith(f"| {name} |")]
    return [part.strip() for part in found.strip("|").split("|")]


def test_fewer_bits_are_a_gain_of_the_pair():
    table = task_matrix(matrix(), "lwf", bits_saved, 3)
    assert line(table, "learned") == ["learned", "plain", "tales", "sums"]
    assert line(table, "sums")[1:] == ["2.000", f"+{fmean([0.1, 0.2]):.3f} [−0.485, 0.785]", "–"]
    assert line(table, "tales")[3].startswith("+0.150 [")
    assert "Mean over all pairs: +0.150 [−0.485, 0.785]; 2 seeds." in table


def test_a_task_without_options_has_no_row_of_accuracies():
    table = task_matrix(matrix(), "lwf", choice_accuracy, 2)
    assert line(table, "sums")[2].startswith("+0.10")
    assert "| tales |" not in table.split("\n", 2)[2]


def test_more_bits_on_neutral_text_are_a_loss():
    table = task_matrix(matrix(), "lwf", neutral_bits_saved, 3)
    assert line(table, "sums")[1:3] == ["4.000", f"−{fmean([0.1, 0.2]):.3f} [−0.785, 0.485]"]
    assert "| tales |" not in table.split("\n", 2)[2]


def test_methods_stand_beside_each_other_by_forgetting_set():
    cells = [
        replace(cell(method, seed), forgetting=forgotten, neutral_bits_per_byte=base - less * (1 + seed))
        for forgotten, base in (("tales", 2.0), ("mixed", 3.0))
        for method, less in (("plain", 0.0), ("lwf", 0.1), ("random", -0.2))
        for seed in (0, 1)
    ]
    table = methods_by_forgetting(groups_of(cells), neutral_bits_saved, 2)
    assert line(table, "method") == ["method", "tales", "mixed"]
    assert line(table, "`plain`")[1:] == ["2.00", "3.00"]
    assert line(table, "`lwf`")[1].startswith("+0.15 [")
    assert line(table, "`random`")[2].startswith("−0.30 [")
    assert table.endswith("2 seeds.")
