"""Worlds by command line and recipe: `graceful world`, and the fields `world_...`."""

from pathlib import Path

import pytest

from graceful_forgetting.cli import main
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.sources import load_sources
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.worlds import WORLDS, Difficulty, load_world


def test_list_names_every_world_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(WORLDS)
    assert all(definition.summary in line for definition, line in zip(WORLDS.values(), lines, strict=True))


def test_build_takes_seed_and_difficulty(tmp_path: Path) -> None:
    flags = ["--seed", "3", "--pretraining_steps", "1", "--label_noise", "0.3"]
    assert main(["world", "build", "harmless", "--output_dir", str(tmp_path / "built"), *flags]) == 0
    summary = read_json(tmp_path / "built" / "world.json")
    assert summary["seed"] == 3
    assert summary["recipe"]["steps"] == 1
    assert summary["recipe"]["label_noise"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["harmles", "--output_dir", "x"], "unknown world 'harmles': did you mean 'harmless'"),
        (["harmless", "--output_dir", "x", "--label_noise", "1"], "label_noise=1.0 is not valid"),
    ],
)
def test_bad_builds_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["world", "build", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_sets_difficulty_and_build_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "graceful_forgetting.runs.sources.world_checkpoint", lambda *given: asked.append(given) or tmp_path
    )
    arguments = RunArguments(world="arithmetic", world_options={"train_share": 0.2, "harmful_share": 0.5}, world_seed=4)
    difficulty = Difficulty(train_share=0.2, harmful_share=0.5)
    sources = load_sources(arguments, None, seed=0)
    assert asked == [("arithmetic", which, difficulty, 4) for which in ("base", "never_knew")]
    world = load_world("arithmetic", difficulty)
    assert sources.learning_train.to_list() == world.learning_train.to_list()
    assert {name: source.test.to_list() for name, source in sources.forgetting.items()} == {
        name: rows.to_list() for name, rows in world.forgetting.items()
    }


def test_settings_can_be_chosen_on_validation_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graceful_forgetting.runs.sources.world_checkpoint", lambda *_: tmp_path)
    world = load_world("entangled")
    for split, rows in (("validation", world.learning_validation), ("test", world.learning_test)):
        sources = load_sources(RunArguments(world="entangled", world_options={"split": split}), None, seed=0)
        assert sources.learning_test is not None
        assert sources.learning_test.to_list() == rows.to_list()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"world": "arithmetic", "world_options": {"split": "train"}}, "split='train' is not valid"),
        (
            {"learning_task": "gsm8k", "forgetting_tasks": ["dental"], "world_options": {"split": "validation"}},
            "name a world",
        ),
        (
            {"world": "arithmetic", "world_options": {"train_share": 2.0}},
            r"world_options: train_share=2.0 is not valid",
        ),
        (
            {"world": "arithmetic", "world_options": {"harmful_share": 0.0}},
            r"world_options: harmful_share=0.0 is not valid",
        ),
        ({"learning_task": "gsm8k", "forgetting_tasks": ["dental"], "world_seed": 1}, "world is not set: name a world"),
        (
            {"learning_task": "gsm8k", "forgetting_tasks": ["dental"], "world_options": {"label_noise": 0.0}},
            "name a world",
        ),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunArguments(**fields)


@pytest.mark.parametrize(
    "fields", [{"world_seed": 1}, {"world_options": {"pretraining_steps": 5}}, {"world_options": {"label_noise": 0.2}}]
)
def test_built_models_take_no_settings_of_a_build(fields: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names models that are built already"):
        load_sources(RunArguments(world="arithmetic", **fields), str(tmp_path), seed=0)
