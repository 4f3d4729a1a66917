"""The price of a run: counts of tokens by stage, what is there already, and that measuring leaves no trace."""

import logging
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from datasets import Dataset

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.runs.price import evaluation_work
from graceful_forgetting.training import in_memory, price
from graceful_forgetting.training.measured_speed import measured_speed
from graceful_forgetting.training.price import Speed, options_each, price_text, stage_label, worth_measuring
from graceful_forgetting.training.stages import RunDirectory, StagesAhead
from graceful_forgetting.training.work import Amounts, Lengths, Work, stage_work

AMOUNTS = Amounts(
    options=1.0,
    reads_once=True,
    learning=Lengths(16, (10,) * 16),
    held_out=Lengths(4, (10,) * 4),
    prompts=Lengths(30, (5,) * 30),
    elicits=True,
    parameters=1000,
    trained=1000,
    model_bytes=4000,
)
SPEED = Speed(learned=3.0, differentiated=2.0, read=1.0, generated=5.0, step=7.0, ends=0.0, activations=0.0)


def config(tmp_path: Path, **settings) -> LWFConfig:
    common = {"max_steps": 20, "per_device_train_batch_size": 4, "save_strategy": "no", "bf16": False}
    return LWFConfig(output_dir=str(tmp_path / "out"), **{**common, **settings})


def test_tokens_by_stage_are_those_of_the_settings(tmp_path):
    args = config(tmp_path, unlearn_every=5, per_device_unlearn_batch_size=3)
    work = {
        name: stage_work(name, args, AMOUNTS, 8.0)
        for name in ("self_knowledge", "reference", "plain", "posterior", "scores", "selection", "lwf", "trials")
    }
    # The first token of an answer comes with the pass over its prompt.
    assert (work["self_knowledge"].read, work["self_knowledge"].generated) == (30 * 5, 30 * 7)
    assert (work["plain"].learned, work["plain"].steps) == (20 * 4 * 10, 20)
    assert (work["reference"].learned, work["reference"].steps) == (2 * 4 * 10, 2)
    # The loss of the learning rows, at both ends of the reference run; that of the answers too.
    assert (work["posterior"].read, work["posterior"].differentiated) == (2 * 16 * 10, 0)
    assert (work["scores"].read, work["scores"].differentiated) == (2 * 30 * 13, 0)
    assert work["selection"] == Work()
    # After updates 5, 10 and 15, three samples and as many retained ones; two judgements of the held-out rows.
    assert work["lwf"].learned == 20 * 4 * 10 + 3 * 6 * 13
    assert (work["lwf"].steps, work["lwf"].read) == (23, 2 * 4 * 10)
    assert work["trials"].learned == work["lwf"].learned
    assert (work["lwf"].kept, work["trials"].kept) == (4000, 0)


def test_a_scorer_of_gradients_differentiates_and_its_posterior_too(tmp_path):
    args = config(tmp_path, method="lwf", posterior_num_samples=6)
    assert stage_work("posterior", args, AMOUNTS, 8.0).differentiated == 6 * 10
    assert stage_work("scores", args, AMOUNTS, 8.0).differentiated == 30 * 13
    by_learning = config(tmp_path, confidence_scorer="gradient_cosine", forget_count=2)
    assert stage_work("scores", by_learning, AMOUNTS, 8.0).differentiated == 30 * 13 + 16 * 10
    drawn = config(tmp_path, confidence_scorer="random", forget_count=2)
    assert stage_work("scores", drawn, AMOUNTS, 8.0).passes == 0


def test_every_option_of_a_prompt_is_read(tmp_path):
    amounts = replace(AMOUNTS, options=3.0)
    work = {
        name: stage_work(name, config(tmp_path, per_device_unlearn_batch_size=3, unlearn_every=5), amounts, 8.0)
        for name in ("self_knowledge", "scores", "lwf")
    }
    # An option counts two tokens, and none is generated.
    assert (work["self_knowledge"].read, work["self_knowledge"].generated) == (30 * (5 + 3 * 2), 0)
    assert work["scores"].read == 2 * 30 * (5 + 3 * 2)
    each = replace(amounts, reads_once=False)
    assert stage_work("self_knowledge", config(tmp_path), each, 8.0).read == 30 * 3 * 7
    assert stage_work("scores", config(tmp_path), each, 8.0).read == 2 * 30 * 3 * 7
    assert work["lwf"].learned == 20 * 4 * 10 + 3 * 6 * 3 * 7
    pool = Dataset.from_dict({"prompt": ["a", "b", "c"], "options": [["x", "y", "z"], None, ["x", "y"]]})
    assert options_each(pool) == 2.0
    assert options_each(pool.remove_columns("options")) == options_each(None) == 1.0


def test_the_options_of_a_test_question_are_read_after_one_prompt():
    pair = {"input_ids": [1] * 10 + [2, 3], "labels": [-100] * 10 + [2, 3]}
    rows = SimpleNamespace(options=[[pair, pair, pair], [pair]])
    run, inputs = SimpleNamespace(generates=False), SimpleNamespace(test_sets=["x"], evaluation_rows={"x": rows})
    read = {
        once: evaluation_work(run, inputs, SimpleNamespace(text=None), 8.0, replace(AMOUNTS, reads_once=once)).read
        for once in (True, False)
    }
    assert read == {True: (10 + 3 * 2) + 12, False: 3 * 12 + 12}


def test_a_system_prompt_is_read_once_where_nothing_is_trained(tmp_path):
    system = list(range(20))
    prompts = Lengths.of([[*system, 30, 31], [*system, 32, 33, 34, 35]], 30)
    assert (prompts.mean, prompts.common) == (23, 20)
    read, each = replace(AMOUNTS, prompts=prompts), replace(AMOUNTS, prompts=prompts, reads_once=False)
    assert stage_work("scores", config(tmp_path), read, 8.0).read == 2 * 30 * (3 + 8)
    assert stage_work("scores", config(tmp_path), each, 8.0).read == 2 * 30 * (23 + 8)
    assert stage_work("self_knowledge", config(tmp_path), read, 8.0).read == 30 * 3
    assert stage_work("self_knowledge", config(tmp_path), each, 8.0).read == 30 * 23

    pairs = [[{"input_ids": [*system, 30, last, 2], "labels": [-100] * 21 + [last, 2]}] for last in (40, 41)]
    rows = SimpleNamespace(options=[*pairs, [{"input_ids": [*system, 31, 40], "labels": [-100] * 21 + [40]}]])
    run, inputs = SimpleNamespace(generates=False), SimpleNamespace(test_sets=["x"], evaluation_rows={"x": rows})
    assert evaluation_work(run, inputs, SimpleNamespace(text=None), 8.0, read).read == 3 + 3 + 2
    assert evaluation_work(run, inputs, SimpleNamespace(text=None), 8.0, each).read == 23 + 23 + 22


def test_evaluations_and_checkpoints_on_the_way_count(tmp_path):
    quiet = stage_work("plain", config(tmp_path), AMOUNTS, 8.0)
    busy = config(
        tmp_path, eval_strategy="steps", eval_steps=5, save_strategy="steps", save_steps=10, save_total_limit=1
    )
    found = stage_work("plain", busy, AMOUNTS, 8.0)
    assert found.read - quiet.read == 4 * 4 * 10
    assert found.stored - quiet.stored == 2 * (4000 + 16 * 1000)
    assert found.scratch == 4000 + 16 * 1000


def test_a_batch_costs_what_its_longest_row_does():
    rows = Lengths(400, (4, 8) * 100)
    assert rows.total == 400 * 6
    assert rows.padded(1) == 6
    # Of four random rows, one in sixteen batches has no long one.
    assert rows.padded(4) == pytest.approx(8 - 4 / 16, abs=0.3)
    assert Lengths(0, ()).padded(4) == 0


def test_answers_end_with_the_same_probability_everywhere():
    assert SPEED.answer(24) == 24
    ending = Speed(**{**vars(SPEED), "ends": 0.25})
    assert ending.answer(1) == 1
    assert ending.answer(2) == 1.75
    assert ending.answer(1000) == pytest.approx(4)


def test_seconds_are_counts_times_what_was_measured():
    work = Work(learned=1, differentiated=10, read=100, generated=1000, steps=10000)
    assert SPEED.seconds(work) == 3 + 20 + 100 + 5000 + 70000
    assert (work + work).generated == 2000


def test_what_is_over_in_seconds_is_not_priced():
    assert price_text({"plain fine-tuning": 19.0}, 0, 0, []) is None
    text = price_text({"self-knowledge": 70.0, "selection": 0.0, "scores": 5.0}, 3 * 2**30, 2**29, ["lm_eval_tasks"])
    assert text is not None
    assert text.splitlines() == [
        "ahead: about 1 min 15 s, 3.00 GiB of memory, 512 MiB of disk",
        "  self-knowledge    1 min 10 s",
        "  scores                5.00 s",
        "  not counted: lm_eval_tasks",
    ]
    assert not worth_measuring(1000, {"plain": Work(learned=1000)})
    assert worth_measuring(135_000_000, {"plain": Work(learned=1000)})


def test_seeds_and_trials_are_one_line_each():
    assert stage_label("plain/seed-1") == "plain fine-tuning"
    assert stage_label("published/reference/seed-1") == "published reference run"
    assert stage_label("evaluation/lwf-seed-2") == stage_label("evaluation/lwf-seed-1") == "evaluation of lwf"
    assert stage_label("trials/0-nothing/seed-1") == "trial runs"


def test_what_the_directory_holds_is_not_ahead(tmp_path):
    directory = RunDirectory(tmp_path / "run")

    def first(found: RunDirectory):
        return found.stage("self_knowledge", {"a": 1}, [], lambda *_: {"kept": 3, "prompts": 3})

    def second(found: RunDirectory, settings):
        return found.stage("scores", settings, [first(found)], lambda *_: {"scored": 3})

    ahead = StagesAhead(directory)
    second(ahead, {})
    assert ahead.ahead == ["self_knowledge", "scores"]
    assert not (tmp_path / "run" / "scores").exists()
    assert directory.results == []
    second(directory, {})
    ahead = StagesAhead(directory)
    assert second(ahead, {}).detail == {"scored": 3}
    assert ahead.ahead == []
    second(ahead, {"changed": True})
    assert ahead.ahead == ["scores"]


def test_measuring_leaves_no_trace(make_model, tokenizer, learning, tmp_path):
    model = make_model()
    model.train()
    marked = next(iter(model.parameters()))
    marked.grad = torch.ones_like(marked)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state())
    settings, own = model.generation_config, marked.grad
    rows = tokenize_dataset(learning, tokenizer, argument="train_dataset")
    trained = sum(parameter.numel() for parameter in model.parameters())
    pool = Dataset.from_dict({"prompt": ["w1 w2", "w3"]})
    speed = measured_speed(
        model, tokenizer, config(tmp_path, elicitation_max_new_tokens=4), rows, [[4, 5], [6]], pool, trained
    )
    assert all(value > 0 for name, value in vars(speed).items() if name != "generated")
    assert speed.learned > speed.differentiated
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert marked.grad is own
    assert torch.equal(own, torch.ones_like(own))
    assert all(parameter.grad is None for parameter in list(model.parameters())[1:])
    assert all(module.training for module in model.modules())
    assert model.generation_config is settings
    assert states[:2] == (random.getstate(), numpy.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())


def test_an_adapter_to_come_needs_no_gradients_of_the_weights(make_model, tokenizer, learning, tmp_path):
    model = make_model()
    rows = tokenize_dataset(learning, tokenizer, argument="train_dataset")
    speed = measured_speed(model, tokenizer, config(tmp_path), rows, [], None, trained=100)
    assert (speed.generated, speed.ends) == (0, 0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_trainer_says_its_price_and_trains_as_without(
    make_model, tokenizer, learning, forgetting, tmp_path, monkeypatch, caplog
):
    def trained(folder: str) -> tuple[str, dict[str, torch.Tensor]]:
        caplog.clear()
        trainer = LWFTrainer(
            make_model(),
            config(
                tmp_path,
                max_steps=3,
                unlearn_every=1,
                forget_strategy="threshold",
                forget_threshold=-9.0,
                elicitation_max_new_tokens=8,
                use_cpu=True,
            ),
            train_dataset=learning,
            eval_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=forgetting.select_columns(["prompt"]),
        )
        trainer.args.output_dir = str(tmp_path / folder)
        with caplog.at_level(logging.INFO):
            trainer.train()
        return caplog.text, trainer.model.state_dict()

    quiet, expected = trained("quiet")
    assert "ahead: about" not in quiet
    monkeypatch.setattr(price, "SHORT", 0.0)
    monkeypatch.setattr(price, "FEW_OPERATIONS", 0.0)
    said, weights = trained("priced")
    assert "ahead: about" in said
    for stage in ("self-knowledge", "reference run", "plain fine-tuning", "posterior", "scores", "with unlearning"):
        assert stage in said.partition("ahead: about")[2]
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_a_row_that_cannot_be_measured_is_left_to_its_stage(monkeypatch):
    def refuse(*_):
        raise ValueError("row 3")

    monkeypatch.setattr(in_memory, "_price", refuse)
    assert in_memory.price_ahead(SimpleNamespace(), None, False) is None
