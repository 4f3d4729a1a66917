"""Fine-tuning that destroys the model says so; a checkpoint is not saved of it."""

import math

import pytest
from transformers import TrainerControl, TrainerState

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.posterior.divergence import DivergedError, LearningLoss, NonFiniteLossError
from graceful_forgetting.posterior.reference import PlainTrainer

GUESSING = math.log(64)


@pytest.fixture
def fine_tune(tmp_path, make_model, tokenizer, learning):
    """Trains a model that knows the learning rows, further, at another rate; returns the trainer."""
    rows = tokenize_dataset(learning, tokenizer, max_length=None)

    def train(model, rate: float, **settings) -> PlainTrainer:
        args = LWFConfig(
            output_dir=str(tmp_path / "run"),
            learning_rate=rate,
            per_device_train_batch_size=8,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to=[],
            **{"max_steps": 60, "save_strategy": "no", "gradient_checkpointing": False, **settings},
        )
        trainer = PlainTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        return trainer

    model = make_model()
    train(model, 1e-2)
    return lambda rate, **settings: train(model, rate, **settings)


@pytest.mark.parametrize("rate", [1e2, 1e3, 1e4, 1e5, 1e6])
def test_a_rate_that_destroys_the_model(fine_tune, tmp_path, rate):
    with pytest.raises((DivergedError, NonFiniteLossError), match=r"learning_rate"):
        fine_tune(rate, save_strategy="steps", save_steps=20)


def test_a_rate_that_serves(fine_tune):
    assert fine_tune(1e-3).state.global_step == 60


def told(loss: LearningLoss, args, losses: list[float], start: int = 0) -> TrainerState:
    state = TrainerState(global_step=start)
    control = TrainerControl()
    loss.on_train_begin(args, state, control)
    for value in losses:
        state.global_step += 1
        loss.note(value)
        loss.on_step_end(args, state, control)
    return state


@pytest.fixture
def args(tmp_path):
    return LWFConfig(output_dir=str(tmp_path), report_to=[])


def test_explosion_ends_a_run_before_it_saves(args):
    with pytest.raises(DivergedError, match=r"from 1 to .* by update 3, and guessing has 4\.16.*Lower learning_rate"):
        told(LearningLoss(64), args, [1.0, 5.0, 60.0])


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([1.0] + [GUESSING + 0.01] * 60, True),
        ([1.0] + [GUESSING - 0.5] * 60, False),
        # It knew nothing before.
        ([GUESSING] + [GUESSING + 0.1] * 60, False),
        ([1.0, 6.0, 3.0] + [0.5] * 30, False),
    ],
)
def test_a_run_that_ends_no_better_than_guessing(args, losses, diverged):
    watched = LearningLoss(64)
    state = told(watched, args, losses)
    state.max_steps = state.global_step + 1
    watched.on_train_end(args, state, TrainerControl())
    state.max_steps = state.global_step
    if diverged:
        with pytest.raises(DivergedError):
            watched.on_train_end(args, state, TrainerControl())
    else:
        watched.on_train_end(args, state, TrainerControl())


def test_a_continued_run_knows_how_it_began(args):
    first = LearningLoss(64)
    told(first, args, [1.0, 4.0])
    second = LearningLoss(64)
    state = TrainerState(global_step=2, stateful_callbacks={"LearningLoss": first.state()})
    second.on_train_begin(args, state, TrainerControl())
    assert second.state() == first.state() == {"args": {}, "attributes": {"first": 1.0}}
