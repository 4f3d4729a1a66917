"""Data, models and arguments that are refused, on their own; through a trainer: `robustness/test_trainer_errors.py`."""

import pytest
import torch
from datasets import Dataset

from graceful_forgetting import LWFConfig
from graceful_forgetting.training.checks import (
    check_data,
    check_forgetting,
    check_model,
    check_own_parts,
    is_scored,
    unlearns,
)
from graceful_forgetting.training.preparation import Preparation

PROMPTS = Dataset.from_list([{"prompt": "w1 w2", "forgetting_task": "myths"}])
SCORED = PROMPTS.add_column("completion", [" w3"]).add_column("forgetting_confidence", [1.0])
PREPARED = Preparation(SCORED, SCORED, {})


def config(**settings) -> LWFConfig:
    return LWFConfig(**{"output_dir": "unused", "use_cpu": True, "report_to": [], "unlearn_every": 2} | settings)


def data(**given) -> dict:
    rows = Dataset.from_list([{"prompt": "w1", "completion": " w2"}])
    return {"train_dataset": rows, "eval_dataset": rows, "forget_dataset": PROMPTS, "preparation": None} | given


def test_what_there_is_to_do():
    assert unlearns(config(), PROMPTS, None)
    assert unlearns(config(), None, PREPARED)
    assert not unlearns(config(), None, None)
    assert not unlearns(config(unlearn_every=0, baseline="l2_sp"), PROMPTS, None)
    assert is_scored(SCORED)
    assert is_scored(None)
    assert not is_scored(PROMPTS)


def test_forgetting_needs_prompts_and_some_baselines_need_forgetting():
    check_forgetting(config(), PROMPTS, None)
    with pytest.raises(ValueError, match="forget_dataset needs a column `prompt`"):
        check_forgetting(config(), PROMPTS.rename_column("prompt", "question"), None)
    with pytest.raises(ValueError, match="baseline='f_learning' needs the base model's self-knowledge"):
        check_forgetting(config(baseline="f_learning"), None, None)
    check_forgetting(config(baseline="f_learning"), None, PREPARED)


def test_trials_need_held_out_rows_unless_they_are_made():
    args = config(forget_trials="during")
    check_data(args, **data())
    with pytest.raises(ValueError, match="forget_trials='during' needs held-out learning rows"):
        check_data(args, **data(eval_dataset=None))
    check_data(args, **data(eval_dataset=None, forget_dataset=None, preparation=PREPARED))


def test_streams_are_refused_where_all_rows_are_read():
    stream = data()["train_dataset"].to_iterable_dataset()
    with pytest.raises(ValueError, match="a streaming train_dataset cannot be used with baseline='l2_sp'"):
        check_data(config(baseline="l2_sp"), **data(train_dataset=stream))
    check_data(config(posterior_num_samples=1), **data(train_dataset=stream))


def test_models_are_of_text(make_model, tokenizer):
    check_model(config(baseline="f_learning"), make_model(), tokenizer)


def test_own_optimizers_serve_one_run_alone(make_model):
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    needs_reference = config(confidence_scorer="lwf")
    check_own_parts(needs_reference, None, None, PROMPTS, None)
    check_own_parts(needs_reference, None, optimizer, SCORED, None)
    with pytest.raises(ValueError, match="which the reference run cannot share"):
        check_own_parts(needs_reference, None, optimizer, PROMPTS, None)
    with pytest.raises(ValueError, match="which trial runs cannot share"):
        check_own_parts(config(forget_trials="during"), None, optimizer, SCORED, None)
    with pytest.raises(ValueError, match="compute_loss_func cannot be used with baseline='bss'"):
        check_own_parts(config(baseline="bss"), len, None, None, None)
