"""What a recipe names beyond the default method reaches the training of the method's arm, and no other."""

import json
from pathlib import Path

import pytest
from datasets import load_from_disk
from safetensors.torch import load_file

from graceful_forgetting.cli import main

ARM = Path("lwf", "seed-3")


def trained(folder: Path, arm: str) -> dict:
    return load_file(folder / arm / "seed-3" / "model.safetensors")


def differ(one: dict, other: dict) -> bool:
    return any(not (one[name] == other[name]).all() for name in one)


@pytest.fixture
def train(recipe: Path, tmp_path: Path):
    """Trains with flags, into a folder of its own; returns it."""

    def run(name: str, *flags: str) -> Path:
        assert main(["train", "--config", str(recipe), "--output_dir", str(tmp_path / name), *flags]) == 0
        return tmp_path / name

    return run


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        (["--baseline", "bss", "--baseline_weight", "0.5"], set()),
        (["--baseline", "afec", "--baseline_weight", "30"], {"posterior"}),
        (["--baseline", "f_learning", "--confidence_scorer", "loss"], {"self_knowledge", "scores", "selection"}),
    ],
    ids=["bss", "afec", "f_learning"],
)
def test_a_baseline_alone_runs_the_stages_that_it_reads(train, flags, stages):
    folder = train("run", *flags, "--unlearn_every", "0")
    made = {entry.parent.name for entry in folder.glob("*/stage.json")}
    assert made == stages
    assert json.loads((folder / ARM / "unlearning.json").read_text())["updates"] == 0
    assert differ(trained(folder, "plain"), trained(folder, "lwf"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--unlearn_retain_weight", "2.0"],
        ["--unlearn_objective", "npo"],
        ["--confidence_scorer", "gradient_conflict"],
        ["--confidence_scorer", "pairwise_conflict"],
    ],
    ids=lambda flags: flags[0].removeprefix("--"),
)
def test_a_setting_of_the_method_changes_its_arm_and_leaves_plain_alone(train, flags):
    whole, changed = train("default"), train("changed", *flags)
    assert not differ(trained(whole, "plain"), trained(changed, "plain"))
    assert differ(trained(whole, "lwf"), trained(changed, "lwf"))


def test_weights_reach_the_unlearning_updates(train, recipe):
    """All rows are unlearned either way."""
    whole = train("whole", "--forget_fraction", "1.0")
    recipe.write_text(recipe.read_text().replace("forget_fraction: 0.5", "forget_strategy: weighted"))
    assert differ(trained(whole, "lwf"), trained(train("weighted"), "lwf"))


def test_given_answers_take_the_place_of_the_models_own(train, tmp_path, forgetting, capsys):
    flags = ["--forget_answers", "given", "--confidence_scorer", "loss"]
    forgetting.to_json(tmp_path / "myths" / "train.jsonl")
    folder = train("given", *flags)
    rows = load_from_disk(str(folder / "scores" / "rows"))
    assert rows["completion"][:] == forgetting["completion"][:]
    own = load_from_disk(str(train("own", "--confidence_scorer", "loss") / "scores" / "rows"))
    assert own["completion"][:] != forgetting["completion"][:]
    forgetting.select_columns(["prompt"]).to_json(tmp_path / "myths" / "train.jsonl")
    assert main(["train", "--config", str(tmp_path / "recipe.yaml"), *flags]) == 2
    assert "the data of myths carry no completions" in capsys.readouterr().err
