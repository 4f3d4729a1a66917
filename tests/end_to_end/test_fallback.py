"""Plain fine-tuning takes the place of a run whose held-out loss is higher, and a reference run may end early."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import LlamaForCausalLM
from trl import SFTTrainer

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.cli import main
from graceful_forgetting.config import changed
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.runtime.checkpoints import check_checkpoint
from graceful_forgetting.tasks import load_task
from graceful_forgetting.unlearning.fallback import HeldOutComparison

# Ascent on the learning rows themselves: what is learned cannot be better for it.
HARMFUL = {"unlearn_learning_rate": 3e-2, "unlearn_objective": "gradient_ascent", "guard_margin": None}
# Ascent so slow that it changes the last digits alone.
HARMLESS = {"unlearn_learning_rate": 1e-9}


def config(folder: Path, **changes) -> LWFConfig:
    settings = FORMULA | {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "unlearn_every": 1,
        "forget_fraction": 1.0,
        "per_device_unlearn_batch_size": 8,
        "save_strategy": "no",
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
    }
    return LWFConfig(output_dir=str(folder), **{**settings, **changes})


def trained(folder, model, tokenizer, learning, resume=None, held_out="learning", peft=None, **changes) -> LWFTrainer:
    trainer = LWFTrainer(
        model,
        config(folder, **changes),
        train_dataset=learning,
        eval_dataset={"learning": learning, "none": None, "two": {"a": learning, "b": learning}}[held_out],
        processing_class=tokenizer,
        forget_dataset=learning,
        peft_config=peft,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def reference_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "preparation" / "plain").glob("*model.safetensors")))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_harmed_model_gets_the_weights_of_the_reference_run(tmp_path, make_model, tokenizer, learning, lora, caplog):
    peft = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    with caplog.at_level(logging.WARNING):
        trainer = trained(tmp_path, make_model(), tokenizer, learning, peft=peft, **HARMFUL)
    guard = trainer.unlearning_summary()["guard"]
    assert guard["fell_back"]
    assert guard["held_out_loss"] > guard["plain_held_out_loss"]
    assert "Forgetting did not help" in caplog.text
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(next((tmp_path / "saved").glob("*model.safetensors")))
    for name, weight in reference_weights(tmp_path).items():
        assert torch.equal(saved[name], weight), name


def test_held_out_losses_are_those_of_evaluate(tmp_path, make_model, tokenizer, learning):
    trainer = trained(tmp_path, make_model(), tokenizer, learning, **HARMFUL)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.held_out.plain_loss, rel=1e-5)
    two = trained(tmp_path / "two", make_model(), tokenizer, learning, held_out="two", **HARMFUL)
    assert two.held_out.plain_loss == pytest.approx(trainer.held_out.plain_loss, rel=1e-5)


def test_nothing_changes_where_it_is_not_worse_or_not_wanted(tmp_path, make_model, tokenizer, learning):
    plain = trained(tmp_path / "no", make_model(), tokenizer, learning, guard_fallback=False, **HARMFUL)
    assert plain.held_out is None
    without = trained(tmp_path / "none", make_model(), tokenizer, learning, held_out="none", **HARMFUL)
    assert without.held_out is None
    kept = plain.model.state_dict()
    for name, weight in without.model.state_dict().items():
        assert torch.equal(weight, kept[name]), name
    # Not to be told from the reference run but by its weights.
    other = trained(tmp_path / "slow", make_model(), tokenizer, learning, **HARMLESS)
    fell_back = other.held_out.falls_back
    same = all(torch.equal(other.model.state_dict()[n], w) for n, w in reference_weights(tmp_path / "slow").items())
    assert fell_back == same


def test_a_resumed_run_falls_back_as_the_whole_one(tmp_path, make_model, tokenizer, learning):
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = trained(tmp_path, make_model(), tokenizer, learning, **HARMFUL, **saving)
    checkpoint = str(tmp_path / "checkpoint-3")
    again = trained(tmp_path, make_model(), tokenizer, learning, resume=checkpoint, **HARMFUL, **saving)
    assert again.held_out == whole.held_out
    assert again.held_out.falls_back


def test_what_was_rejected_cannot_be_loaded_or_resumed_unawares(tmp_path, make_model, tokenizer, learning):
    saving = {"save_strategy": "steps", "save_steps": 3}
    trained(tmp_path, make_model(), tokenizer, learning, **HARMFUL, **saving)
    for step in (3, 6):
        with pytest.raises(OSError, match=r"model\.safetensors"):
            LlamaForCausalLM.from_pretrained(tmp_path / f"checkpoint-{step}")
    checkpoint = str(tmp_path / "checkpoint-3")
    for changes in ({"held_out": "none"}, {"guard_fallback": False}):
        with pytest.raises(ValueError, match="of a run that lost to plain fine-tuning, and this one would keep"):
            trained(tmp_path, make_model(), tokenizer, learning, resume=checkpoint, **{**HARMFUL, **saving, **changes})


def test_the_card_of_a_model_that_fell_back_is_of_plain_fine_tuning(tmp_path, make_model, tokenizer, learning):
    saving = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
    trainer = trained(tmp_path, make_model(), tokenizer, learning, **HARMFUL, **saving)
    plain = json.loads((tmp_path / "preparation" / "plain" / "training_log.json").read_text())
    losses = [f"{entry['loss']:.4g}" for entry in plain if "loss" in entry]

    def check(card: str) -> None:
        assert "**these are the weights of plain fine-tuning**" in card
        assert "A run that unlearned 24 pieces of knowledge by 5 updates" in card
        assert "This model was trained with SFT" in card
        assert f"| learning loss, first logged | {losses[0]} |" in card
        assert f"| learning loss, last logged | {losses[-1]} |" in card
        assert f"| held-out loss of these weights | {trainer.held_out.plain_loss:.4g} |" in card
        assert f"| held-out loss of the run that unlearned, rejected | {trainer.held_out.loss:.4g} |" in card
        assert "The same rows chose between the two and report the loss" in card
        for false in ("were unlearned by", "loss of what is unlearned", "jiang2025graceful", "| forgetting task |"):
            assert false not in card

    check((tmp_path / "README.md").read_text())
    trainer.create_model_card(model_name="another")
    check((tmp_path / "README.md").read_text())


def test_the_card_names_the_reference_run_as_what_it_was(tmp_path, make_model, tokenizer, learning):
    saving = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1, "reference_fraction": 0.5}
    trainer = trained(tmp_path, make_model(), tokenizer, learning, **HARMLESS, **saving)
    trainer.held_out = HeldOutComparison(1.0, 2.0)
    trainer.create_model_card(model_name="kept")
    card = (tmp_path / "README.md").read_text()
    reference, plain = (
        [entry["loss"] for entry in log if "loss" in entry]
        for log in (trainer.preparation.reference_log, trainer.preparation.plain_log)
    )
    assert (len(reference), len(plain)) == (3, 6)
    ended = "the reference run, which ended after 0.5 of the updates"
    assert f"| learning loss of {ended}, last logged | {reference[-1]:.4g} |" in card
    assert f"| learning loss of plain fine-tuning, last logged | {plain[-1]:.4g} |" in card
    assert "| held-out loss of these weights | 1 |" in card
    assert "| held-out loss of plain fine-tuning | 2 |" in card


def test_a_loss_that_is_not_a_number_falls_back():
    assert HeldOutComparison(float("nan"), 1.0).falls_back
    assert not HeldOutComparison(1.0, 1.0).falls_back


def test_an_early_reference_run_ends_early_and_is_no_plain_run(tmp_path, make_model, tokenizer, learning):
    def preparation(folder, **changes):
        trainer = LWFTrainer(
            make_model(),
            config(folder, logging_steps=1, **changes),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=learning,
        )
        return trainer.prepare_unlearning()

    whole, half = preparation(tmp_path / "whole"), preparation(tmp_path / "half", reference_fraction=0.5)
    losses = [[entry["loss"] for entry in p.reference_log if "loss" in entry] for p in (whole, half)]
    # The rate decays alike, so that the first half is the same.
    assert losses[1] == losses[0][:3]
    assert (tmp_path / "whole" / "preparation" / "plain").is_dir()
    assert not (tmp_path / "half" / "preparation" / "plain").exists()


@pytest.mark.parametrize("changes", [{"reference_fraction": 0.5}, {"confidence_scorer": "loss"}], ids=str)
def test_without_a_whole_reference_run_a_plain_one_is_made_to_compare_with(
    tmp_path, make_model, tokenizer, learning, changes
):
    whole = trained(tmp_path / "whole", make_model(), tokenizer, learning, **HARMFUL)
    trainer = trained(tmp_path / "own", make_model(), tokenizer, learning, **HARMFUL, **changes)
    assert trainer.held_out.falls_back
    assert trainer.held_out.plain_loss == pytest.approx(whole.held_out.plain_loss, rel=1e-5)
    plain = load_file(next((tmp_path / "own" / "preparation" / "plain").glob("*model.safetensors")))
    weights, expected = trainer.model.state_dict(), whole.model.state_dict()
    for name, weight in plain.items():
        assert torch.equal(weights[name], weight), name
        assert torch.equal(expected[name], weight), name


def test_a_resumed_run_finds_the_plain_one_again(tmp_path, make_model, tokenizer, learning):
    changes = {**HARMFUL, "reference_fraction": 0.5, "save_strategy": "steps", "save_steps": 3}
    whole = trained(tmp_path, make_model(), tokenizer, learning, **changes)
    again = trained(tmp_path, make_model(), tokenizer, learning, resume=str(tmp_path / "checkpoint-3"), **changes)
    assert again.held_out == whole.held_out
    assert again.held_out.falls_back


def test_no_plain_run_is_made_for_nothing(tmp_path, make_model, tokenizer, learning):
    early = {"reference_fraction": 0.5}
    trained(tmp_path / "rows", make_model(), tokenizer, learning, held_out="none", **early)
    trained(tmp_path / "guard", make_model(), tokenizer, learning, guard_fallback=False, **early)
    trained(tmp_path / "empty", make_model(), tokenizer, learning, **early, **NOTHING)
    assert not list(tmp_path.glob("*/preparation/plain"))


def test_a_run_falls_back_on_rows_that_the_learning_limit_leaves_over(recipe, tmp_path, learning):
    changes = HARMFUL | {"learning_limit": 12, "unlearn_learning_rate": 0.5}
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | changes))
    folder = tmp_path / "run"
    assert main(["train", "--config", str(recipe), "--output_dir", str(folder)]) == 0
    guard = json.loads((folder / "lwf" / "seed-3" / "unlearning.json").read_text())["guard"]
    assert guard["fell_back"]
    plain, lwf = (load_file(folder / arm / "seed-3" / "model.safetensors") for arm in ("plain", "lwf"))
    for name, weight in plain.items():
        assert torch.equal(lwf[name], weight), name
    # Checkpoints with what was rejected are gone.
    assert not list(folder.rglob("checkpoint-*"))
    # Without rows to compare on, the model stays as it was trained.
    assert main(["train", "--config", str(recipe), "--output_dir", str(folder), "--validation_limit", "0"]) == 0
    guard = json.loads((folder / "lwf" / "seed-3" / "unlearning.json").read_text())["guard"]
    assert guard["held_out_loss"] is None


def test_the_held_out_loss_of_a_run_counts_completions_alone(recipe, tmp_path, tokenizer, learning):
    """The learning rows reach TRL without their prompts, from which it would tell that those do not count."""
    changes = "learning_limit: 12\nvalidation_limit: 200\neval_strategy: steps\neval_steps: 8\n"
    changes += "per_device_eval_batch_size: 12\n"
    recipe.write_text(recipe.read_text() + changes)
    folder = tmp_path / "run"
    assert main(["train", "--config", str(recipe), "--output_dir", str(folder)]) == 0
    arm = folder / "plain" / "seed-3"
    logged = [
        entry["eval_loss"] for entry in json.loads((arm / "training_log.json").read_text()) if "eval_loss" in entry
    ]

    shown = set(load_task(str(tmp_path / "arithmetic"), "train", limit=12, seed=3)["row"])
    rows = [row for row in load_task(str(tmp_path / "arithmetic"), "train") if row["row"] not in shown]
    held_out = tokenize_dataset(Dataset.from_list(rows), tokenizer, argument="held out")
    model = LlamaForCausalLM.from_pretrained(arm).eval()
    losses = []
    for row in held_out:
        labels = torch.tensor([row["labels"]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
        losses += [loss.item()] * int((labels[:, 1:] != -100).sum())
    assert logged[-1] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_a_threshold_that_everything_reaches_is_warned_of(tmp_path, make_model, tokenizer, learning, caplog):
    everything = {"forget_strategy": "threshold", "forget_threshold": -1e9, "forget_fraction": None}
    with caplog.at_level(logging.WARNING):
        trained(tmp_path, make_model(), tokenizer, learning, **everything)
    assert "all of forget_dataset is in the way of the learning task, or" in caplog.text


NOTHING = {"forget_strategy": "threshold", "forget_threshold": 1e9, "forget_fraction": None}


@pytest.mark.parametrize("changes", [{}, {"unlearn_schedule": "joint"}, {"unlearn_objective": "npo"}], ids=str)
def test_where_no_score_reaches_the_threshold_training_is_plain(
    tmp_path, make_model, tokenizer, learning, caplog, changes
):
    with caplog.at_level(logging.WARNING):
        saving = {"save_strategy": "steps", "save_steps": 100}
        trainer = trained(tmp_path, make_model(), tokenizer, learning, **NOTHING, **changes, **saving)
    assert "No score reaches forget_threshold=1e+09" in caplog.text
    assert trainer.unlearning_summary()["updates"] == 0
    weights = trainer.model.state_dict()
    for name, weight in reference_weights(tmp_path).items():
        assert torch.equal(weights[name], weight), name


@pytest.fixture
def runs(monkeypatch) -> list[SFTTrainer]:
    """The trainers that have trained."""
    found, train = [], SFTTrainer.train
    monkeypatch.setattr(
        SFTTrainer, "train", lambda self, *args, **keys: found.append(self) or train(self, *args, **keys)
    )
    return found


AT_ITS_END = [{}, {"save_strategy": "steps", "save_steps": 6}, {"save_strategy": "steps", "save_steps": 0.999}]


@pytest.mark.parametrize("changes", [*AT_ITS_END, {"save_strategy": "epoch", "max_steps": 3}], ids=str)
def test_a_trainer_that_unlearns_nothing_does_not_repeat_its_reference_run(
    tmp_path, make_model, tokenizer, learning, runs, changes
):
    trainer = trained(tmp_path, make_model(), tokenizer, learning, held_out="none", **NOTHING, **changes)
    assert len(runs) == 1
    assert (trainer.state.global_step, trainer.unlearning_summary()["updates"]) == (runs[0].state.max_steps, 0)
    plain = SFTTrainer(
        make_model(), changed(trainer.args, output_dir=str(tmp_path / "plain")), train_dataset=learning,
        processing_class=tokenizer,
    )  # fmt: skip
    plain.train()
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name
    timed = ("runtime", "per_second", "total_flos")
    for own, entry in zip(trainer.state.log_history, plain.state.log_history, strict=True):
        assert [(n, v) for n, v in own.items() if not n.endswith(timed)] == [
            (n, v) for n, v in entry.items() if not n.endswith(timed)
        ]
    assert trainer.state.epoch == plain.state.epoch
    # The checkpoint that a plain run leaves at its end: its weights, tokenizer and log, and nothing to go on from.
    saved = sorted(tmp_path.glob("checkpoint-*"))
    assert [each.name for each in saved] == [each.name for each in sorted((tmp_path / "plain").glob("checkpoint-*"))]
    for checkpoint in saved:
        check_checkpoint(checkpoint)
        names = {each.name for each in (tmp_path / "plain" / checkpoint.name).iterdir()}
        missing = names - {each.name for each in checkpoint.iterdir()}
        assert missing == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
        weights = load_file(checkpoint / "model.safetensors")
        for name, weight in load_file(tmp_path / "plain" / checkpoint.name / "model.safetensors").items():
            assert torch.equal(weights[name], weight), name
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert (state["global_step"], state["epoch"]) == (trainer.state.global_step, plain.state.epoch)
        assert trainer.args.save_only_model is False


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"save_strategy": "steps", "save_steps": 5}, "no checkpoints before its end (save_strategy='steps')"),
        ({"save_strategy": "epoch"}, "no checkpoints before its end (save_strategy='epoch')"),
        ({"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 0.5},
         "no checkpoints before its end (save_strategy='steps'), no evaluations (eval_strategy='steps')"),
    ],
    ids=str,
)  # fmt: skip
def test_plain_fine_tuning_is_repeated_for_what_it_leaves_on_the_way(
    tmp_path, make_model, tokenizer, learning, runs, caplog, changes, left
):
    with caplog.at_level(logging.INFO):
        trainer = trained(tmp_path, make_model(), tokenizer, learning, **NOTHING, **changes)
    assert len(runs) == 2
    assert f"plain fine-tuning is trained once more: the reference run has left {left}" in caplog.text
    assert len([*tmp_path.glob("checkpoint-*")]) == 2
    for name, weight in reference_weights(tmp_path).items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name


def test_after_a_part_of_a_run_the_whole_one_is_trained_without_a_word_of_repeating(
    tmp_path, make_model, tokenizer, learning, runs, caplog
):
    with caplog.at_level(logging.INFO):
        part = {"reference_fraction": 0.5}
        trainer = trained(tmp_path, make_model(), tokenizer, learning, held_out="none", **NOTHING, **part)
    assert (len(runs), trainer.state.global_step) == (2, 6)
    assert "once more" not in caplog.text


def test_a_run_that_unlearns_nothing_can_be_resumed(tmp_path, make_model, tokenizer, learning):
    saving = {"save_strategy": "steps", "save_steps": 3}
    trained(tmp_path, make_model(), tokenizer, learning, **NOTHING, **saving)
    checkpoint = str(tmp_path / "checkpoint-3")
    again = trained(tmp_path, make_model(), tokenizer, learning, resume=checkpoint, **NOTHING, **saving)
    weights = again.model.state_dict()
    for name, weight in reference_weights(tmp_path).items():
        assert torch.equal(weights[name], weight), name


def test_a_run_says_that_nothing_is_unlearned(recipe, tmp_path, capsys):
    text = recipe.read_text().replace("forget_fraction: 0.5", "forget_strategy: threshold\nforget_threshold: 1.0e+9")
    recipe.write_text(text)
    folder = tmp_path / "run"
    assert main(["run", "--config", str(recipe), "--output_dir", str(folder)]) == 0
    assert "No score reaches forget_threshold=1e+09" in capsys.readouterr().out
    plain, lwf = (load_file(folder / arm / "seed-3" / "model.safetensors") for arm in ("plain", "lwf"))
    assert all(torch.equal(lwf[name], weight) for name, weight in plain.items())
    # Not trained or tested a second time.
    for stage, original in (("lwf/seed-3", "plain/seed-3"), ("evaluation/lwf-seed-3", "evaluation/plain-seed-3")):
        assert json.loads((folder / stage / "stage.json").read_text())["detail"]["same_as"] == original
    assert json.loads((folder / "result.json").read_text())["selection"]["chosen"] == 0
    assert (folder / "report.html").is_file()


def test_baselines_need_a_whole_reference_run(tmp_path):
    with pytest.raises(ValueError, match=r"reference_fraction=0\.5 with baseline='ewc'"):
        config(tmp_path, baseline="ewc", reference_fraction=0.5)
    with pytest.raises(ValueError, match=r"reference_fraction=0\.0"):
        config(tmp_path, reference_fraction=0.0)
