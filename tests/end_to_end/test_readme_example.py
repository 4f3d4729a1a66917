"""The script of the README, against the embedded world, for full fine-tuning and for LoRA."""

from pathlib import Path

import pytest
from datasets import concatenate_datasets
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.training.shipped import shipped_model
from graceful_forgetting.worlds import load_world, world_checkpoint

ROOT = Path(__file__).parents[2]
# What makes the example small enough for a test; everything else is as in the README.
SMALL = {"max_steps": 12, "elicitation_max_new_tokens": 4, "disable_tqdm": True, "save_strategy": "no"}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_readme_example(tmp_path, monkeypatch, lora):
    monkeypatch.chdir(tmp_path)
    world = load_world("shortcut")
    learning = world.learning_train
    forgetting = concatenate_datasets(list(world.forgetting.values())).shuffle(seed=0).select(range(40))
    forgetting = forgetting.select_columns(["prompt"])
    model = str(world_checkpoint("shortcut", "base"))
    peft_config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM") if lora else None

    trainer = LWFTrainer(
        model=model,
        args=LWFConfig(output_dir="out", unlearn_every=5, forget_fraction=0.25, **SMALL),
        train_dataset=learning,
        forget_dataset=forgetting,
        peft_config=peft_config,
    )
    trainer.train()

    assert trainer.state.global_step == 12
    assert trainer.unlearning_summary()["updates"] == 2
    assert len(trainer.preparation.selected) == 10
    assert (tmp_path / "out" / "preparation" / "selection" / "selection.json").is_file()


def script(side: str) -> str:
    """The script that the README's diff leads from ("-") or to ("+")."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").split("```diff\n")[1].split("```")[0].splitlines()
    return "\n".join(line[1:] for line in lines if line[:1] in ("", " ", side))


def test_the_readmes_diff_leads_from_a_script_of_trl_to_one_that_forgets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = load_world("shortcut")
    world.learning_train.to_json("learning.jsonl")
    rows = concatenate_datasets(list(world.forgetting.values())).shuffle(seed=0).select(range(40))
    rows.select_columns(["prompt"]).to_json("forgetting.jsonl")

    for side in "-+":
        program = script(side).replace("meta-llama/Llama-3.2-1B", str(world_checkpoint("shortcut", "base")))
        assert program.count('output_dir="out"') == 1
        settings = SMALL
        if side == "-":  # without our fields, and with what LWFConfig sets on a machine like this
            settings = {name: value for name, value in SMALL.items() if not name.startswith("elicitation")}
            settings |= {"bf16": False, "activation_checkpointing": False}
        names: dict = {}
        exec(program.replace('output_dir="out"', f'output_dir="out", **{settings!r}'), names)
        assert names["trainer"].state.global_step == 12
        assert type(names["trainer"]) is (SFTTrainer if side == "-" else LWFTrainer)


def test_two_names_turn_an_sft_script_into_an_lwf_script(tmp_path):
    """The same arguments train with both; without a forgetting set the weights agree."""
    world = load_world("shortcut")
    settings = {"max_steps": 3, "learning_rate": 1e-3, "disable_tqdm": True, "save_strategy": "no", "bf16": False}
    weights = []
    for config, trainer_class in ((SFTConfig, SFTTrainer), (LWFConfig, LWFTrainer)):
        trainer = trainer_class(
            model=str(world_checkpoint("shortcut", "base")),
            args=config(output_dir=str(tmp_path), activation_checkpointing=False, **settings),
            train_dataset=world.learning_train,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_the_models_name_in_the_package_works_for_the_trainer(tmp_path, learning):
    trainer = LWFTrainer("graceful/base-text", LWFConfig(output_dir=str(tmp_path)), train_dataset=learning)
    assert trainer.model.config.name_or_path == str(shipped_model())
