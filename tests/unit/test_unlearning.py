"""Schedule, order of samples and guard."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful_forgetting.unlearning.guard import Guard
from graceful_forgetting.unlearning.order import batch_indices
from graceful_forgetting.unlearning.schedule import updates_due


def steps(schedule: str, total: int, every: int, seed: int = 0) -> list[int]:
    """The learning updates that unlearning updates precede, as often as they do."""
    return [step for step in range(total) for _ in range(updates_due(schedule, step, total, every, seed))]


@given(every=st.integers(1, 20), total=st.integers(1, 200))
def test_each_schedule_follows_its_rule(every, total):
    periodic = steps("periodic", total, every)
    assert periodic == list(range(every, total, every))
    assert steps("early", total, every) == [0] * len(periodic)
    assert steps("joint", total, every) == list(range(total))
    drawn = steps("random", total, every)
    assert len(set(drawn)) == len(drawn)
    assert 0 not in drawn


@given(schedule=st.sampled_from(["periodic", "early", "random", "joint"]), total=st.integers(1, 50))
def test_zero_turns_unlearning_off(schedule, total):
    assert steps(schedule, total, 0) == []


def test_random_unlearning_is_as_frequent_as_periodic_and_follows_the_seed():
    counts = [len(steps("random", 1000, 5, seed)) for seed in range(20)]
    # 1000 draws of probability 0.2 have a standard deviation of 12.6, their mean over 20 seeds one of 2.8.
    assert sum(counts) / 20 == pytest.approx(200, abs=12)
    assert max(abs(count - 200) for count in counts) < 60
    assert steps("random", 1000, 5, 1) != steps("random", 1000, 5, 2)
    gaps = [later - earlier for earlier, later in itertools.pairwise(steps("random", 1000, 5, 1))]
    assert len(set(gaps)) > 5


@given(samples=st.integers(1, 40), batch=st.integers(1, 60), updates=st.integers(1, 12), seed=st.integers(0, 2**31 - 1))
def test_every_sample_is_used_equally_often(samples, batch, updates, seed):
    drawn = [i for update in range(updates) for i in batch_indices(update, batch, samples, seed)]
    assert len(drawn) == batch * updates
    counts = Counter(drawn)
    assert set(counts) <= set(range(samples))
    assert max(counts.values()) - min(counts[i] for i in range(samples)) <= 1


@given(seed=st.integers(0, 1000))
def test_order_does_not_depend_on_the_batch_size(seed):
    whole = [i for update in range(2) for i in batch_indices(update, 12, 10, seed)]
    parts = [i for update in range(8) for i in batch_indices(update, 3, 10, seed)]
    assert whole == parts


def test_order_changes_from_pass_to_pass_and_with_the_seed():
    assert batch_indices(0, 50, 50, 1) != batch_indices(1, 50, 50, 1)
    assert batch_indices(0, 50, 50, 1) != batch_indices(0, 50, 50, 2)


def test_guard_lets_a_falling_and_a_noisy_loss_pass():
    guard = Guard(margin=0.5)
    for step in range(200):
        guard.observe_learning_loss(4 * math.exp(-step / 50) + 0.3 * (-1) ** step, step)
    assert not guard.stopped


def test_guard_stops_once_and_says_why():
    guard = Guard(margin=0.5)
    for step in range(30):
        guard.observe_learning_loss(1.0, step)
    assert not guard.stopped
    step = 30
    while not guard.stopped:
        guard.observe_learning_loss(4.0, step)
        step += 1
    assert guard.step == step - 1 < 35
    assert "smoothed learning loss" in guard.reason
    assert "guard_margin=0.5" in guard.reason
    reason = guard.reason
    guard.observe_learning_loss(9.0, step)
    assert (guard.reason, guard.step) == (reason, step - 1)


def test_guard_watches_each_held_out_set_on_its_own():
    guard = Guard(margin=0.5)
    guard.observe_held_out_loss("eval_a_loss", 1.0, 1)
    guard.observe_held_out_loss("eval_b_loss", 3.0, 1)
    assert not guard.stopped
    guard.observe_held_out_loss("eval_a_loss", 1.6, 2)
    assert guard.stopped
    assert "eval_a_loss" in guard.reason


def test_guard_that_is_off_never_stops():
    guard = Guard(margin=None)
    for loss in (1.0, 100.0):
        guard.observe_held_out_loss("eval_loss", loss, 1)
    assert not guard.stopped


@given(losses=st.lists(st.floats(0, 10), min_size=2, max_size=30), cut=st.integers(1, 29))
def test_a_restored_guard_continues_exactly(losses, cut):
    whole, first = Guard(margin=0.5), Guard(margin=0.5)
    for step, loss in enumerate(losses):
        whole.observe_learning_loss(loss, step)
        if step == cut:
            first = Guard.from_state_dict(first.state_dict())
        first.observe_learning_loss(loss, step)
    assert first == whole
