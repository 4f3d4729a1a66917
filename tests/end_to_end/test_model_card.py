"""The model card that is written with every checkpoint and by `push_to_hub`."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer


@pytest.fixture
def build(tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset, forgetting: Dataset) -> Any:
    def make(forget_dataset: Any, **settings: Any) -> LWFTrainer:
        given = FORMULA | {"max_steps": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "unlearn_every": 2}
        given |= {"forget_fraction": 0.5, "bf16": False, "activation_checkpointing": False, "disable_tqdm": True}
        given |= {"logging_steps": 1, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 6}
        args = LWFConfig(str(tmp_path / "colors"), **{**given, **settings})
        return LWFTrainer(
            make_model(),
            args,
            train_dataset=learning,
            eval_dataset=learning,
            forget_dataset=forget_dataset,
            processing_class=tokenizer,
        )

    return make


def card_of(trainer: LWFTrainer, **keywords: Any) -> str:
    trainer.create_model_card(**keywords)
    return (Path(trainer.args.output_dir) / "README.md").read_text()


def table(card: str, heading: str) -> dict[str, str]:
    section = card.split(f"### {heading}\n")[1].split("\n#")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    return {name.strip().strip("`"): value.strip() for name, value in rows}


def test_method_paper_settings_and_numbers(build: Any, forgetting: Dataset) -> None:
    pool = {"old|rules": forgetting.select(range(10)), "myths": forgetting.select(range(10, 16))}
    trainer = build(pool, unlearn_loss_cap=5.0, guard_fallback=False)
    trainer.train()
    card = card_of(trainer, model_name="colors", dataset_name="species")
    assert "Model Card for colors" in card
    assert "[Graceful Forgetting in Generative Language Models](https://huggingface.co/papers/2505.19715)" in card
    assert "jiang2025graceful" in card
    assert {"trl", "sft", "graceful-forgetting"} <= set(ModelCard(card).data.tags)
    assert "8 pieces of knowledge of 16 that were scored (`lwf`) were unlearned by 2 updates (`bounded_ascent`)" in card
    selected = trainer.preparation.selected["forgetting_task"]
    for name, cell, count in (("old|rules", "old\\|rules", 10), ("myths", "myths", 6)):
        assert f"| {cell} | {count} | {selected.count(name)} |" in card
    numbers, logs = table(card, "Numbers"), trainer.state.log_history
    losses = [entry["loss"] for entry in logs if "loss" in entry]
    assert numbers["learning loss, first logged"] == f"{losses[0]:.4g}"
    assert numbers["learning loss, last logged"] == f"{losses[-1]:.4g}"
    unlearned = [entry["unlearn_loss"] for entry in logs if "unlearn_loss" in entry]
    assert numbers["loss of what is unlearned, last logged"] == f"{unlearned[-1]:.4g}"
    reference = [entry["loss"] for entry in trainer.preparation.reference_log if "loss" in entry]
    assert numbers["learning loss of plain fine-tuning, last logged"] == f"{reference[-1]:.4g}"
    evaluated = [entry["eval_loss"] for entry in logs if "eval_loss" in entry]
    assert numbers["eval\\_loss, last evaluation"] == f"{evaluated[-1]:.4g}"
    settings = table(card, "Settings")
    assert settings["unlearn_every"] == "2"
    assert settings["unlearn_loss_cap"] == "5.0"
    assert "guard_margin" not in settings
    # Before the versions, and once, however often it is written.
    assert card.index("## What was forgotten") < card.index("### Framework versions")
    assert card_of(trainer, model_name="colors").count("## What was forgotten") == 1


def test_only_the_method_of_the_paper_is_called_so(build: Any, forgetting: Dataset) -> None:
    cards = {
        "LWF (Learning With Forgetting), a method introduced in": build(forgetting),
        "forgetting by interference.": build(forgetting, confidence_scorer="interference"),
        "forgetting at random.": build(forgetting, forget_strategy="random"),
        "forgetting by given scores.": build(forgetting.add_column("forgetting_confidence", [0.5] * 16)),
        "l2 sp.": build(None, baseline="l2_sp", unlearn_every=0),
        "SFT.": build(None),
    }
    for name, trainer in cards.items():
        card = card_of(trainer, model_name="colors")
        assert f"This model was trained with {name}" in card
        is_papers = name.startswith("LWF")
        assert ("2505.19715" in card, "Learning With Forgetting" in card) == (is_papers, is_papers)
        assert ("learning-with-forgetting" in ModelCard(card).data.tags) == is_papers


def test_a_resumed_run_and_a_stopped_one_say_so(tmp_path: Path, build: Any, forgetting: Dataset) -> None:
    scored = forgetting.add_column("forgetting_confidence", [float(i) for i in range(16)])
    build(scored, save_strategy="steps").train()
    # Every checkpoint comes with the card of the moment.
    assert "were unlearned by 2 updates" in (tmp_path / "colors" / "README.md").read_text()
    trainer = build(scored)
    trainer.train(resume_from_checkpoint=str(tmp_path / "colors" / "checkpoint-4"))
    trainer._updates.guard.stopped, trainer._updates.guard.step = True, 5
    trainer._updates.guard.reason = "the loss rose"
    card = card_of(trainer)
    assert "8 pieces of knowledge were unlearned by 2 updates" in card
    assert "Unlearning was ended after learning update 5: the loss rose." in card


def test_a_run_without_unlearning_claims_none(build: Any) -> None:
    trainer = build(None, baseline="l2_sp")
    trainer.train()
    card = card_of(trainer)
    assert "No unlearning took place: this is supervised fine-tuning with the baseline `l2_sp`." in card
    assert "loss of what is unlearned" not in card
