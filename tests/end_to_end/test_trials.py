"""Trial runs choose what is unlearned, in a trainer and in a run."""

import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.cli import main
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.store import STAGE_FILE, Entry
from graceful_forgetting.training.preparation import Preparation, write_selection
from graceful_forgetting.training.trials import Candidate, candidates

# Gradient ascent on the learning rows themselves can only harm, on what the model says elsewhere it need not.
SETTINGS = FORMULA | {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "unlearn_every": 1,
    "unlearn_learning_rate": 3e-2,
    "unlearn_objective": "gradient_ascent",
    "guard_margin": None,
    "forget_fraction": 1.0,
    "forget_trials": "during",
    "per_device_unlearn_batch_size": 8,
    "save_strategy": "no",
    "bf16": False,
    "activation_checkpointing": False,
    "disable_tqdm": True,
}


@pytest.fixture
def build(tmp_path, make_model, tokenizer, learning):
    def make(forget_dataset, folder="out", eval_dataset=learning, **changes) -> LWFTrainer:
        optimizers = {"optimizers": changes.pop("optimizers")} if "optimizers" in changes else {}
        return LWFTrainer(
            make_model(),
            LWFConfig(output_dir=str(tmp_path / folder), **{**SETTINGS, **changes}),
            train_dataset=learning,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            forget_dataset=forget_dataset,
            **optimizers,
        )

    return make


@pytest.fixture
def pool(learning, forgetting) -> dict[str, Dataset]:
    return {"lesson": learning, "myths": forgetting.select_columns(learning.column_names)}


def rewrite_selection(folder: Path, chosen: Candidate) -> None:
    """Put another choice into the stage of a finished selection, under its key."""
    record = read_json(folder / STAGE_FILE)

    def fill(partial: Path) -> dict:
        write_selection(partial, chosen.selected, chosen.audit)
        return {name: value for name, value in record.items() if name not in ("key", "version", "files", "checksum")}

    Entry(folder, record["key"], STAGE_FILE).write(fill)


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    "changes", [{}, {"unlearn_schedule": "early", "unlearn_objective": "uniform"}], ids=["during", "first"]
)
def test_each_loss_is_that_of_a_run_of_its_own(build, pool, make_model, tokenizer, learning, caplog, changes):
    trainer = build(pool, **changes)
    before = weights(trainer)
    with caplog.at_level(logging.INFO):
        preparation = trainer.prepare_unlearning()
    # The model comes back at θ_base, so that the run itself starts from there.
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    trials = preparation.audit["trials"]
    assert list(trials["held_out_losses"]) == ["nothing", "by score", "task lesson", "task myths"]
    assert trials["chosen"] == min(trials["held_out_losses"], key=trials["held_out_losses"].get)
    assert f"Unlearned is: {trials['chosen']}" in caplog.text
    for name, task in (("task lesson", "lesson"), ("task myths", "myths")):
        selected = preparation.scored.filter(lambda row, task=task: row["forgetting_task"] == task)
        selected = selected.add_column("source_index", list(range(len(selected))))
        alone = LWFTrainer(
            make_model(),
            LWFConfig(
                output_dir=trainer.args.output_dir,
                **{**SETTINGS, **changes, "forget_trials": "none", "guard_fallback": False},
            ),
            train_dataset=learning,
            eval_dataset=learning,
            processing_class=tokenizer,
            preparation=Preparation(preparation.scored, selected, {}),
        )
        # As selected: highest score first.
        order = sorted(range(len(selected)), key=lambda i: -selected[i]["forgetting_confidence"])
        alone.preparation.selected = selected.select(order)
        alone.train()
        assert alone.evaluate()["eval_loss"] == pytest.approx(trials["held_out_losses"][name], rel=1e-4)


def test_a_way_that_is_chosen_is_the_way_of_the_run(build, pool, make_model, tokenizer, learning):
    """Tried, chosen, trained and resumed: as a run that is told so from the beginning."""
    changes = {"unlearn_schedule": "early", "unlearn_objective": "uniform", "save_strategy": "steps", "save_steps": 3}
    # Ascent at this rate ruins the model, a uniform guess about the myths does not.
    settings = {"forget_trials": "both", "unlearn_learning_rate": 0.3, "guard_fallback": False}
    tried = build({"myths": pool["myths"]}, forget_fraction=0.5, save_strategy="steps", save_steps=3, **settings)
    preparation = tried.prepare_unlearning()
    losses = preparation.audit["trials"]["held_out_losses"]
    assert list(losses) == ["nothing", "by score", "first: by score"]
    # Which of them wins is no matter here: the run is to follow the record.
    chosen = candidates(preparation.scored, tried.args.selection_config(), first=True)["first: by score"]
    preparation.selected, preparation.audit = chosen.selected, chosen.audit
    rewrite_selection(Path(tried.args.output_dir, "preparation", "selection"), chosen)
    tried.train()
    told = LWFTrainer(
        make_model(),
        LWFConfig(
            output_dir=str(Path(tried.args.output_dir).with_name("told")),
            **{**SETTINGS, **settings, **changes, "forget_trials": "none"},
        ),
        train_dataset=learning,
        eval_dataset=learning,
        processing_class=tokenizer,
        preparation=Preparation(preparation.scored, preparation.selected, {}),
    )
    told.train()
    expected = told.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in tried.model.state_dict().items())
    assert told.evaluate()["eval_loss"] == pytest.approx(losses["first: by score"], rel=1e-4)
    resumed = build({"myths": pool["myths"]}, forget_fraction=0.5, save_strategy="steps", save_steps=3, **settings)
    resumed.train(resume_from_checkpoint=str(Path(tried.args.output_dir) / "checkpoint-3"))
    assert all(torch.equal(weight, expected[name]) for name, weight in resumed.model.state_dict().items())
    assert (resumed.args.unlearn_schedule, resumed.args.unlearn_objective) == ("early", "uniform")
    # What is prepared for is how it is unlearned, whoever tried it.
    given = LWFTrainer(
        make_model(),
        given_args := LWFConfig(
            output_dir=str(Path(tried.args.output_dir).with_name("given")),
            **{**SETTINGS, **settings, "forget_trials": "none"},
        ),
        train_dataset=learning,
        eval_dataset=learning,
        processing_class=tokenizer,
        preparation=preparation,
    )
    given.train()
    assert all(torch.equal(weight, expected[name]) for name, weight in given.model.state_dict().items())
    # The caller's settings are not touched: another trainer tries both ways again.
    assert (given_args.unlearn_schedule, given_args.unlearn_objective) == ("periodic", "gradient_ascent")


def test_where_nothing_helps_nothing_is_unlearned_and_training_is_plain(build, learning, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = build({"a": learning.select(range(6)), "b": learning.select(range(6, 12))})
        trainer.train()
    assert trainer.preparation.audit["trials"]["chosen"] == "nothing"
    assert "No trial run that unlearns has a lower held-out loss" in caplog.text
    assert trainer.unlearning_summary()["updates"] == 0
    plain = load_file(next(Path(trainer.args.output_dir, "preparation", "plain").glob("*model.safetensors")))
    state = trainer.model.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in plain.items())


def test_a_candidate_that_diverges_loses(build, pool):
    trainer = build(pool, unlearn_learning_rate=1e30)
    before = weights(trainer)
    preparation = trainer.prepare_unlearning()
    trials = preparation.audit["trials"]
    assert trials["chosen"] == "nothing"
    assert math.isfinite(trials["held_out_losses"]["nothing"])
    assert {trials["held_out_losses"][name] for name in ("by score", "task lesson", "task myths")} == {None}
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


def test_a_short_trial_has_its_share_of_the_updates_and_decays(build, pool, monkeypatch):
    seen = []
    train = LWFTrainer.train

    def spied(self, *positional, **keywords):
        output = train(self, *positional, **keywords)
        seen.append((self.state.global_step, self.lr_scheduler.get_last_lr()[0]))
        return output

    monkeypatch.setattr(LWFTrainer, "train", spied)
    build(pool, lr_scheduler_type="linear").prepare_unlearning()
    assert seen == [(6, 0.0)] * 4


def test_learning_runs_on_as_if_there_had_been_no_trials(build, pool, make_model, tokenizer, learning):
    """The trials consume no random numbers and leave nothing in the model: the run is that of its own selection."""
    tried = build(pool, unlearn_objective="bounded_ascent")
    tried.train()
    given = LWFTrainer(
        make_model(),
        LWFConfig(
            output_dir=tried.args.output_dir,
            **{**SETTINGS, "unlearn_objective": "bounded_ascent", "forget_trials": "none"},
        ),
        train_dataset=learning,
        eval_dataset=learning,
        processing_class=tokenizer,
        preparation=tried.preparation,
    )
    given.train()
    expected = given.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in tried.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_dataset": None}, "forget_trials='during' needs held-out learning rows"),
        ({"optimizers": "own"}, "optimizers holds an optimizer"),
    ],
    ids=["no held-out rows", "an optimizer"],
)
def test_what_trials_cannot_do_without_is_said_at_once(build, pool, make_model, changes, message):
    if changes.get("optimizers") == "own":
        changes = {
            "optimizers": (torch.optim.SGD(make_model().parameters(), lr=0.1), None),
            "confidence_scorer": "loss",
        }
    with pytest.raises(ValueError, match=message):
        build(pool, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_trials": True}, r"forget_trials=True .*one of none, during, both"),
        ({"baseline": "l2_sp"}, r"baseline='l2_sp' with forget_trials='during'"),
        (
            {"forget_trials": "both", "unlearn_schedule": "early", "unlearn_objective": "uniform"},
            r"every trial would be made twice",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_trials_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        LWFConfig(output_dir=str(tmp_path), **{**SETTINGS, **changes})


@pytest.fixture
def two_tasks(recipe, tmp_path):
    """The recipe of a run with a second forgetting task, trials and rows held out."""
    shutil.copytree(tmp_path / "myths", tmp_path / "tales")
    rows = (tmp_path / "tales" / "train.jsonl").read_text().splitlines()
    (tmp_path / "tales" / "train.jsonl").write_text(
        "\n".join(row.replace('"prompt": "', '"prompt": "2 ') for row in rows) + "\n"
    )
    text = recipe.read_text().replace(f"- {tmp_path / 'myths'}", f"- {tmp_path / 'myths'}\n- {tmp_path / 'tales'}")
    recipe.write_text(text + "learning_limit: 12\nforget_trials: during\n")
    return recipe


def test_a_run_reports_its_trials_and_reuses_them(two_tasks, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", "--config", str(two_tasks), "--output_dir", str(folder)]) == 0
    printed = capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    trials = result["selection"]["trials"]
    assert set(trials["held_out_losses"]) == {"nothing", "by score", "task myths", "task tales"}
    assert trials["chosen"] == min(trials["held_out_losses"], key=trials["held_out_losses"].get)
    assert f"Unlearned is: {trials['chosen']}" in printed
    assert "trials" in printed.partition("over plain fine-tuning")[2]
    assert "Trial runs" in (folder / "report.html").read_text()
    stages = [stage["name"] for stage in result["stages"] if stage["name"].startswith("trials/")]
    assert len(stages) == 4
    # A setting of the evaluation changes nothing before it; one of unlearning does.
    main(["run", "--config", str(two_tasks), "--output_dir", str(folder), "--eval_limit", "4"])
    assert "trials/0-nothing/seed-3: reused" in capsys.readouterr().out
    main(["select", "--config", str(two_tasks), "--output_dir", str(folder), "--unlearn_every", "4"])
    again = capsys.readouterr().out
    assert "scores: reused" in again
    assert "trials/2-task-" in again
    assert "running again" in again


def test_a_run_tries_to_forget_first(two_tasks, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", "--config", str(two_tasks), "--output_dir", str(folder), "--forget_trials", "both"]) == 0
    result = json.loads((folder / "result.json").read_text())
    trials = result["selection"]["trials"]
    once = ["by score", "task myths", "task tales"]
    assert list(trials["held_out_losses"]) == ["nothing", *once, *(f"first: {name}" for name in once)]
    selection = json.loads((folder / "selection" / "selection.json").read_text())
    assert ("unlearning" in selection) == trials["chosen"].startswith("first: ")
    assert "first: task myths" in (folder / "report.html").read_text()
    capsys.readouterr()
    assert main(["select", "--config", str(two_tasks), "--output_dir", str(folder)]) == 0
    # What was tried during learning is tried again: candidates are a stage of their own.
    assert "candidates: running again" in capsys.readouterr().out


def test_a_run_goes_on_without_the_candidates_that_diverge(two_tasks, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["--unlearn_learning_rate", "1e30", "--unlearn_objective", "gradient_ascent", "--guard_margin", "inf"]
    assert main(["run", "--config", str(two_tasks), "--output_dir", str(folder), *arguments]) == 0
    assert "task myths diverged" in capsys.readouterr().out
    trials = json.loads((folder / "result.json").read_text())["selection"]["trials"]
    assert trials["chosen"] == "nothing"
    assert trials["held_out_losses"]["task myths"] is None
    assert "diverged" in (folder / "report.html").read_text()


def test_a_run_with_trials_needs_no_fallback(two_tasks, tmp_path):
    folder = tmp_path / "run"
    assert main(["train", "--config", str(two_tasks), "--output_dir", str(folder), "--guard_fallback", "false"]) == 0
    assert json.loads((folder / "lwf" / "seed-3" / "unlearning.json").read_text())["guard"]["held_out_loss"] is None


def test_a_run_without_held_out_rows_is_refused_before_any_work(two_tasks, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["run", "--config", str(two_tasks), "--output_dir", str(folder), "--validation_limit", "0"]
    assert main(arguments) == 2
    assert "forget_trials='during' needs held-out learning rows" in capsys.readouterr().err
    assert not (folder / "plain").exists()
