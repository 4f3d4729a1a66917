"""Tables as text."""

from graceful_forgetting.results.text_tables import aligned, markdown_table


def test_markdown_has_heads_a_rule_rows_and_a_note():
    table = markdown_table(["name", "a | b"], [["x", "1"], ["y|z", "2"]], "Two rows.")
    assert table == "| name | a \\| b |\n|---|---|\n| x | 1 |\n| y\\|z | 2 |\n\nTwo rows."
    assert markdown_table(["n"], [], rule=" --- ") == "| n |\n| --- |"


def test_columns_are_as_wide_as_their_widest_cell_and_a_short_row_widens_none():
    assert aligned([("method", "ms"), ("engine", "12.5")]) == "method  ms\nengine  12.5"
    assert aligned([("method", "ms", "x"), ("peer", "out of memory"), ("a", "1", "2")]).splitlines() == [
        "method  ms  x",
        "peer    out of memory",
        "a       1   2",
    ]


def test_ruled_numbers_are_flush_right():
    assert aligned([("task", "plain"), ("sums", "7.0")], ruled=True) == "task  plain\n----  -----\nsums    7.0"
