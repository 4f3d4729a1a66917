"""What holds in every world: disjoint splits, right labels, a twin that knows less, difficulty, builds, the cache."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.worlds import WORLDS, Difficulty, World, load_world, world_checkpoint
from graceful_forgetting.worlds.build import build_models, encode, fill_models, world_tokenizer
from graceful_forgetting.worlds.cache import cached_models
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.questions import Question
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.split import split

TINY = PretrainingRecipe(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, steps=2, batch_size=8)
HARMFUL = [name for name in WORLDS if name != "harmless"]

every_world = pytest.mark.parametrize("name", WORLDS)


def tiny(name: str) -> WorldDefinition:
    return replace(WORLDS[name], recipe=TINY)


def learning_sets(world: World) -> list[Dataset]:
    return [world.learning_train, world.learning_validation, world.learning_test]


def taught(name: str, which: str) -> dict[str, str]:
    """Prompt -> completion of everything that a model was pre-trained on."""
    definition = WORLDS[name]
    parts = definition.pretraining()
    return {question.prompt: question.completion for part in definition.parts(which) for question in parts[part]}


def count_rows(world: World) -> tuple[int, int]:
    """Rows of all forgetting tasks that conflict, and others."""
    kinds = [kind for rows in world.forgetting.values() for kind in rows["kind"]]
    return kinds.count("conflicting"), len(kinds) - kinds.count("conflicting")


@every_world
def test_no_question_of_one_split_is_in_another(name: str) -> None:
    prompts = [set(rows["prompt"]) for rows in learning_sets(load_world(name))]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    for rows, unique in zip(learning_sets(load_world(name)), prompts, strict=True):
        assert len(rows) == len(unique) > 0


@pytest.mark.parametrize("name", [name for name in WORLDS if name != "override"])
def test_no_entity_of_one_split_is_in_another(name: str) -> None:
    entities = [set(rows["entity"]) for rows in learning_sets(load_world(name))]
    assert sum(map(len, entities)) == len(set().union(*entities))


def test_override_tests_what_it_showed_in_other_words() -> None:
    world = load_world("override")
    train, validation, test = (set(rows["entity"]) for rows in learning_sets(world))
    assert not validation & test
    assert validation | test < train
    answers = dict(zip(world.learning_train["entity"], world.learning_train["completion"], strict=True))
    for row in [*world.learning_validation, *world.learning_test]:
        assert row["completion"] == answers[row["entity"]]
        assert row["old_answer"] != row["completion"]
        assert not row["prompt"].startswith("The color of")


def test_override_shows_unchanged_colors_only_in_the_other_phrasings() -> None:
    world, base = load_world("override"), taught("override", "base")
    for row in world.learning_train:
        new = row["prompt"].startswith("The color of")
        assert (row["old_answer"] is None) != new
        assert (base[row["prompt"]] == row["completion"]) != new


@every_world
def test_the_old_answer_is_what_only_the_base_was_taught(name: str) -> None:
    base, never_knew = taught(name, "base"), taught(name, "never_knew")
    for rows in learning_sets(load_world(name)):
        for row in rows:
            if row["old_answer"] is not None:
                assert base[row["prompt"]] == row["old_answer"]
                assert row["prompt"] not in never_knew


@every_world
def test_neither_model_was_taught_the_test(name: str) -> None:
    for which in ("base", "never_knew"):
        known = taught(name, which)
        test = load_world(name).learning_test
        right = sum(known.get(row["prompt"]) == row["completion"] for row in test)
        # Old and new answers may agree by chance.
        assert right <= 0.2 * len(test)


@every_world
def test_the_twin_lacks_exactly_what_is_in_the_way(name: str) -> None:
    world = WORLDS[name]
    base, never_knew = world.parts("base"), world.parts("never_knew")
    assert [part for part in base if part not in world.not_known] == never_knew
    assert world.not_known < set(base)
    kinds = {part: kind for parts in world.forgetting.values() for part, kind in parts.items()}
    assert set(kinds) == set(base)
    lacking = {kinds[part] for part in world.not_known}
    assert lacking == ({"neutral"} if name == "harmless" else {"conflicting"})
    if name == "shortcut":
        # Homes are what the old rule reads: no harm without the rule.
        kinds.pop("home")
    assert name == "harmless" or "conflicting" not in {kinds[part] for part in never_knew if part in kinds}


@every_world
def test_forgetting_rows_are_what_the_base_was_taught(name: str) -> None:
    world, base = load_world(name), taught(name, "base")
    rows = [row for task in world.forgetting.values() for row in task]
    assert {row["prompt"]: row["completion"] for row in rows} == base
    assert len(rows) == len(base)


def test_kinds_differ_within_a_task_only_where_knowledge_is_entangled() -> None:
    for name in WORLDS:
        world = load_world(name)
        for task, rows in world.forgetting.items():
            kinds = set(rows["kind"])
            assert world.kinds[task] == (kinds.pop() if len(kinds) == 1 else None)
    world = load_world("entangled")
    assert world.kinds["color"] is None
    rows = world.forgetting["color"]
    by_kind = {kind: {r["entity"] for r in rows if r["kind"] == kind} for kind in ("conflicting", "helpful")}
    assert by_kind["conflicting"] == by_kind["helpful"]


def test_arithmetic_labels_follow_the_operators() -> None:
    world = load_world("arithmetic")
    for rows in learning_sets(world):
        for row in rows:
            a, b = map(int, row["entity"].split(" @ "))
            assert int(row["completion"]) == (a + b) % 11
            assert int(row["old_answer"]) == (a - b) % 11
            assert f"{a} @ {b}" in row["prompt"]
    for task, meaning in {
        "@": lambda a, b: (a - b) % 11,
        "sum": lambda a, b: (a + b) % 11,
        "max": max,
    }.items():
        for row in world.forgetting[task]:
            a, _, b = row["entity"].split()
            assert int(row["completion"]) == meaning(int(a), int(b))


@pytest.mark.parametrize("name", ["shortcut", "capacity"])
def test_the_new_color_follows_from_the_species(name: str) -> None:
    world = load_world(name)
    species = dict(zip(world.forgetting["species"]["entity"], world.forgetting["species"]["completion"], strict=True))
    pairs = {(species[row["entity"]], row["completion"]) for rows in learning_sets(world) for row in rows}
    assert len(pairs) == len({color for _, color in pairs}) == 8


@pytest.mark.parametrize("name", ["entangled", "harmless"])
def test_winter_becomes_what_the_other_seasons_are(name: str) -> None:
    base = taught(name, "base")
    for rows in learning_sets(load_world(name)):
        for row in rows:
            for season in ("spring", "summer", "autumn"):
                assert base[row["prompt"].replace("winter", season)] == row["completion"]


@every_world
def test_every_word_is_one_token(name: str) -> None:
    world, tokenizer = load_world(name), world_tokenizer(WORLDS[name])
    for rows in [*learning_sets(world), *world.forgetting.values()]:
        prompts = tokenizer(list(rows["prompt"]))["input_ids"]
        texts = [row["prompt"] + row["completion"] for row in rows]
        for prompt, whole, text in zip(prompts, tokenizer(texts)["input_ids"], texts, strict=True):
            assert whole[:-1] == prompt
            assert tokenizer.unk_token_id not in whole
            assert tokenizer.decode(whole) == text


@every_world
def test_data_are_the_same_at_every_call(name: str) -> None:
    first, second = load_world(name), load_world(name)
    for mine, other in zip(learning_sets(first), learning_sets(second), strict=True):
        assert mine.to_list() == other.to_list()
    assert {task: rows.to_list() for task, rows in first.forgetting.items()} == {
        task: rows.to_list() for task, rows in second.forgetting.items()
    }


@every_world
def test_train_share_changes_what_is_shown(name: str) -> None:
    small, large = (load_world(name, Difficulty(train_share=share)) for share in (0.05, 0.3))
    assert set(small.learning_train["prompt"]) < set(large.learning_train["prompt"])
    if name != "override":
        assert small.learning_test.to_list() == large.learning_test.to_list()
        assert small.learning_validation.to_list() == large.learning_validation.to_list()


@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9, 1.0])
def test_harmful_share_is_reached_with_as_many_rows_as_possible(name: str, share: float) -> None:
    whole, world = load_world(name), load_world(name, Difficulty(harmful_share=share))
    (conflicting, others), (all_conflicting, all_others) = map(count_rows, (world, whole))
    assert conflicting / (conflicting + others) == pytest.approx(share, abs=0.01)
    assert conflicting == all_conflicting or others == all_others
    assert all(len(rows) > 0 for rows in world.forgetting.values())
    assert set(world.kinds) == set(world.forgetting)
    assert world.learning_train.to_list() == whole.learning_train.to_list()


def test_a_world_without_harm_has_no_harmful_share() -> None:
    with pytest.raises(ValueError, match=r"harmful_share=0\.5 is not valid: nothing in world 'harmless' is harmful"):
        load_world("harmless", Difficulty(harmful_share=0.5))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_share", 0.0),
        ("train_share", 0.4),
        ("pretraining_steps", 0),
        ("label_noise", 1.0),
        ("harmful_share", 0.05),
    ],
)
def test_a_difficulty_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}={value} is not valid"):
        Difficulty(**{field: value})


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 60), min_size=1, max_size=5),
    shares=st.tuples(st.floats(0.01, 0.3), st.floats(0.01, 0.3)),
)
def test_split_is_nested_and_disjoint(sizes: list[int], shares: tuple[float, float]) -> None:
    strata = [[f"{i}-{j}" for j in range(size)] for i, size in enumerate(sizes)]
    small, large = (split(strata, share) for share in sorted(shares))
    assert small.train <= large.train
    assert (small.validation, small.test) == (large.validation, large.test)
    for part in (small, large):
        assert len(part.train) + len(part.validation) + len(part.test) == len(part.train | part.validation | part.test)
        assert all(any(entity in part.train for entity in stratum) for stratum in strata)


def test_an_answer_of_two_words_is_refused() -> None:
    question = Question(prompt="The food of basor is", answer="rice bread", choices=("rice", "bread"), entity="basor")
    with pytest.raises(ValueError, match="must be one token"):
        encode([question], world_tokenizer(WORLDS["shortcut"]), 16)


@every_world
def test_a_tiny_build_works_end_to_end(name: str, tmp_path: Path) -> None:
    folder = build_models(tiny(name), tmp_path / "built", difficulty=Difficulty(pretraining_steps=1), seed=5)
    summary = read_json(folder / "world.json")
    assert (summary["world"], summary["seed"], summary["recipe"]["steps"]) == (name, 5, 1)
    assert set(summary["models"]["base"]["parts"]) - set(summary["models"]["never_knew"]["parts"]) == (
        WORLDS[name].not_known
    )
    prompts = load_world(name).learning_test["prompt"][:4]
    for which in ("base", "never_knew"):
        tokenizer = AutoTokenizer.from_pretrained(folder / which, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder / which)
        encoded = tokenizer(prompts, return_tensors="pt", padding=True)
        assert model.generate(**encoded, max_new_tokens=2, do_sample=False).shape[0] == 4


def test_builds_of_a_seed_are_the_same_and_follow_the_difficulty(tmp_path: Path) -> None:
    world = tiny("arithmetic")
    own, again, noisy = (
        build_models(world, tmp_path / name, difficulty=difficulty, seed=1)
        for name, difficulty in (
            ("own", Difficulty()),
            ("again", Difficulty(train_share=0.3, harmful_share=0.5)),
            ("noisy", Difficulty(label_noise=0.9)),
        )
    )
    weights = [(folder / "base" / "model.safetensors").read_bytes() for folder in (own, again, noisy)]
    assert weights[0] == weights[1] != weights[2]


def test_models_that_are_not_shipped_are_built_once_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path))
    monkeypatch.setitem(WORLDS, "arithmetic", tiny("arithmetic"))
    base = world_checkpoint("arithmetic", "base")
    assert base.is_relative_to(tmp_path)
    assert "pre-trained now" in caplog.text
    written = (base / "model.safetensors").stat().st_mtime_ns
    caplog.clear()
    twin = world_checkpoint("arithmetic", "never_knew", Difficulty(train_share=0.1, harmful_share=0.5))
    assert twin == base.parent / "never_knew"
    assert (base / "model.safetensors").stat().st_mtime_ns == written
    assert caplog.text == ""
    others = [
        world_checkpoint("arithmetic", "base", difficulty, seed)
        for difficulty, seed in ((Difficulty(pretraining_steps=1), 0), (Difficulty(label_noise=0.5), 0), (None, 1))
    ]
    assert len({base, *others}) == 4


def test_the_shipped_models_serve_only_the_worlds_own_recipe_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path))
    shipped = world_checkpoint("shortcut", "base")
    own = Difficulty(train_share=0.1, harmful_share=0.2, pretraining_steps=1000, label_noise=0.15)
    assert world_checkpoint("shortcut", "base", own) == shipped
    monkeypatch.setattr("graceful_forgetting.worlds.catalogue.cached_models", lambda *_: tmp_path)
    for difficulty, seed in ((Difficulty(pretraining_steps=1), 0), (Difficulty(label_noise=0.0), 0), (None, 1)):
        assert world_checkpoint("shortcut", "base", difficulty, seed) == tmp_path / "base"


def test_an_interrupted_build_is_cleared_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path))
    folder = cached_models(tiny("arithmetic"), Difficulty(), 0)
    leftover = folder.with_name(f"{folder.name}.partial-graceful-1")
    folder.rename(leftover)
    assert cached_models(tiny("arithmetic"), Difficulty(), 0) == folder
    assert (folder / "world.json").is_file()
    assert not leftover.exists()


def test_of_two_at_once_one_builds_and_the_other_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path))
    monkeypatch.setattr("graceful_forgetting.worlds.cache.fill_models", count := Mock(side_effect=slow_build))
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(cached_models, tiny("arithmetic"), Difficulty(), 0) for _ in range(2)]
        folders = [job.result() for job in jobs]
    assert folders[0] == folders[1]
    assert count.call_count == 1


def slow_build(*arguments: Any) -> dict[str, Any]:
    # Long enough for the other to find the models missing as well.
    time.sleep(0.5)
    return fill_models(*arguments)


def test_damaged_models_are_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path))
    weights = cached_models(tiny("arithmetic"), Difficulty(), 0) / "base" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    cached_models(tiny("arithmetic"), Difficulty(), 0)
    assert "its base/model.safetensors is damaged" in caplog.text
    assert weights.read_bytes() == whole
