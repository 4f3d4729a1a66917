"""Bars: what a sweep's says between the ends of its cells."""

import io

from tqdm import tqdm

from graceful_forgetting.runtime.progress import CountedBar


def test_a_bar_says_what_begins_and_not_what_came_of_it():
    drawn = io.StringIO()
    with tqdm(total=2, file=drawn, mininterval=0, leave=False) as shown:
        bar = CountedBar(shown)
        bar.show("plain/seed-0: running ...")
        bar.show("Scoring 240 samples in 15 batches: about 3.1 MiB of memory on cpu")
        assert shown.postfix == "plain/seed-0: running"
        said: list[str] = []
        bar.count(lambda: said.append("[1/2] plain/seed-0"))
    assert said == ["[1/2] plain/seed-0"]
    assert "plain/seed-0: running" in drawn.getvalue()
    assert "1/2" in drawn.getvalue()
