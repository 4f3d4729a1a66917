"""The Python example of the README, against the embedded world, for full fine-tuning and for LoRA."""

import pytest
from datasets import concatenate_datasets
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.training.shipped import shipped_model
from graceful_forgetting.worlds import load_world, world_checkpoint

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
