"""What is said before a run: its cost, and settings that defeat it."""

import pytest

from graceful_forgetting import LWFConfig
from graceful_forgetting.training.notices import cost_ahead, learning_updates, self_defeating


def config(**settings) -> LWFConfig:
    return LWFConfig(**{"output_dir": "unused", "use_cpu": True, "report_to": [], **settings})


@pytest.mark.parametrize(
    ("settings", "reference", "plain", "said"),
    [
        (
            {},
            True,
            True,
            "Training runs ahead: 2.1 (reference run 0.1, plain fine-tuning 1, to compare with on eval_dataset, "
            "ours 1); guard_fallback=False saves the comparison",
        ),
        ({}, True, False, "Training runs ahead: 1.1 (reference run 0.1, ours 1)"),
        # A whole reference run is the plain one.
        (
            {"method": "lwf"},
            True,
            True,
            "Training runs ahead: 2 (plain fine-tuning 1, to compare with on eval_dataset, ours 1)",
        ),
        ({"method": "lwf"}, True, False, "Training runs ahead: 2 (reference run 1, ours 1)"),
        ({}, False, False, "Training runs ahead: 1 (ours 1)"),
        ({"forget_trials": "during"}, False, False, "Training runs ahead: 1 and one for each trial (ours 1)"),
    ],
    ids=str,
)
def test_the_cost_is_said_in_training_runs(settings, reference, plain, said):
    assert cost_ahead(config(**settings), "ours", reference, plain) == said


@pytest.mark.parametrize(
    ("settings", "rows", "updates"),
    [
        ({"max_steps": 7}, None, 7),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 4}, 10, 6),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 4, "dataloader_drop_last": True}, 10, 4),
        ({"num_train_epochs": 1.5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 10, 3),
        ({}, None, None),
    ],
    ids=str,
)
def test_learning_updates_are_those_of_the_trainer(settings, rows, updates):
    assert learning_updates(config(**settings), rows) == updates


def test_a_run_without_an_unlearning_update_is_warned_of():
    (said,) = self_defeating(config(max_steps=5, unlearn_every=5), None, 60)
    assert said.startswith("unlearn_every=5 with 5 learning updates: no unlearning update would happen")
    assert said.endswith("set unlearn_every to at most 4")
    assert self_defeating(config(max_steps=5, unlearn_every=4), None, 60) == []
    (said,) = self_defeating(config(num_train_epochs=1, per_device_train_batch_size=8), 8, 60)
    assert said.endswith("train for more than one update")
    assert self_defeating(config(max_steps=1, unlearn_schedule="joint"), None, 60) == []


def test_a_pool_of_one_is_warned_of():
    (said,) = self_defeating(config(max_steps=8), None, 1)
    assert said.startswith("There is one sample that may be forgotten")
    draws = config(max_steps=8, elicitation_num_samples_per_prompt=2, elicitation_temperature=1.0)
    assert self_defeating(draws, None, 1) == []
