"""The shortcut world: facts and data from their seed, tokenizer, pre-training recipe, shipped checkpoints."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from graceful_forgetting.worlds import WORLDS, Difficulty, World, build_world, load_world, world_checkpoint
from graceful_forgetting.worlds.build import build_models, world_tokenizer
from graceful_forgetting.worlds.pretraining import PretrainingData, pretrain
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.shortcut.facts import shortcut_facts
from graceful_forgetting.worlds.vocabulary import VALUES

TINY = PretrainingRecipe(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2, steps=3, batch_size=8)


def build_shortcut(output_dir: Path, seed: int = 0, overwrite: bool = False, recipe: PretrainingRecipe = TINY) -> Path:
    world = replace(WORLDS["shortcut"], recipe=recipe)
    return build_models(world, output_dir, difficulty=Difficulty(), seed=seed, overwrite=overwrite)


@pytest.fixture(scope="module")
def world() -> World:
    return load_world("shortcut")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return world_tokenizer(WORLDS["shortcut"])


def digest(rows: Dataset) -> str:
    rows = rows.select_columns(["prompt", "completion", "entity"])
    return hashlib.sha256(json.dumps(rows.to_list()).encode()).hexdigest()[:12]


def every_data_set(world: World) -> dict[str, Dataset]:
    return {
        "train": world.learning_train,
        "validation": world.learning_validation,
        "test": world.learning_test,
        **world.forgetting,
    }


def test_facts_are_the_same_on_every_machine_and_version(world: World) -> None:
    # The shipped checkpoints were pre-trained on these very facts.
    assert {name: digest(rows) for name, rows in every_data_set(world).items()} == {
        "train": "0d7bb64a4c68",
        "validation": "09f1a3a04355",
        "test": "7b6058d42737",
        "color": "e4c55820ff9d",
        "species": "759911103797",
        "home": "8eb3c1717fc8",
        "food": "fa7e3497dd49",
    }


def test_old_colors_follow_home_and_new_colors_follow_species() -> None:
    facts = shortcut_facts()
    for entity in facts.entities:
        assert facts.answers["color"][entity] == facts.old_rule[facts.answers["home"][entity]]
        assert facts.new_color[entity] == facts.new_rule[facts.answers["species"][entity]]
    for rule in (facts.old_rule, facts.new_rule):
        assert sorted(rule.values()) == sorted(VALUES["color"])


def test_learning_rows_teach_the_new_rule_and_forgetting_rows_hold_the_old_facts(world: World) -> None:
    facts = shortcut_facts()
    for rows in (world.learning_train, world.learning_validation, world.learning_test):
        for row in rows:
            assert row["old_answer"] == f" {facts.answers['color'][row['entity']]}"
            assert row["completion"] == f" {facts.new_color[row['entity']]}"
            assert row["entity"] in row["prompt"]
            assert "color" in row["prompt"]
    for relation, rows in world.forgetting.items():
        for row in rows:
            assert row["completion"] == f" {facts.answers[relation][row['entity']]}"
            assert relation in row["prompt"]


def test_old_and_new_colors_agree_no_more_often_than_by_chance() -> None:
    facts = shortcut_facts()
    agreeing = sum(facts.answers["color"][e] == facts.new_color[e] for e in facts.entities)
    assert agreeing / len(facts.entities) < 0.2


def test_every_species_is_shown_and_tested_alike(world: World) -> None:
    facts = shortcut_facts()
    for rows, share in ((world.learning_train, 10), (world.learning_validation, 10), (world.learning_test, 25)):
        shown = [facts.answers["species"][entity] for entity in set(rows["entity"])]
        assert {shown.count(species) for species in VALUES["species"]} == {share}


def test_every_relation_asks_about_every_entity_in_two_phrasings(world: World) -> None:
    assert set(world.forgetting) == set(world.kinds) == {"color", "species", "home", "food"}
    for rows in world.forgetting.values():
        assert len(rows) == len(set(rows["prompt"])) == 800
    # A question of the learning task is one of the forgetting task `color`, word for word: only the answers differ.
    learning = set(world.learning_train["prompt"]) | set(world.learning_test["prompt"])
    assert learning < set(world.forgetting["color"]["prompt"])


def test_kinds_are_as_measured(world: World) -> None:
    assert world.kinds["color"] == "conflicting"
    assert world.kinds["species"] == "helpful"
    # The source of the old colors.
    assert world.kinds["home"] == "conflicting"
    assert world.kinds["food"] == "neutral"


def test_tokens_of_a_prompt_are_a_prefix_and_text_survives(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    for rows in every_data_set(world).values():
        for row in rows:
            prompt = tokenizer(row["prompt"])["input_ids"]
            whole = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
            assert whole[: len(prompt)] == prompt
            assert len(whole) == len(prompt) + 2
            assert whole[-1] == tokenizer.eos_token_id
            assert tokenizer.unk_token_id not in whole
            assert tokenizer.decode(whole[:-1]) == row["prompt"] + row["completion"]
            assert tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True) == row["completion"]


def test_saved_tokenizer_is_an_ordinary_fast_tokenizer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    text = "The color of nobody is red<eos>"
    assert loaded(text) == tokenizer(text)
    assert loaded(text)["input_ids"][3] == loaded.unk_token_id
    assert len({loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id}) == 3


def test_tiny_build_is_reproducible_bit_for_bit_and_depends_on_the_seed(tmp_path: Path) -> None:
    global_state = torch.get_rng_state()
    first = build_shortcut(tmp_path / "first", seed=1)
    torch.manual_seed(7)
    again = build_shortcut(tmp_path / "again", seed=1)
    other = build_shortcut(tmp_path / "other", seed=2)
    for which in ("base", "never_knew"):
        weights = [(folder / which / "model.safetensors").read_bytes() for folder in (first, again, other)]
        assert weights[0] == weights[1]
        assert weights[0] != weights[2]
    assert (first / "base" / "model.safetensors").read_bytes() != (
        first / "never_knew" / "model.safetensors"
    ).read_bytes()
    torch.set_rng_state(global_state)


def test_build_leaves_the_callers_random_state_and_threads_alone(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    build_shortcut(tmp_path / "world")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_build_records_what_it_did(tmp_path: Path) -> None:
    summary = json.loads((build_shortcut(tmp_path / "world", seed=3) / "world.json").read_text())
    assert summary["world"] == "shortcut"
    assert summary["seed"] == 3
    assert summary["recipe"]["steps"] == 3
    assert set(summary["models"]) == {"base", "never_knew"}
    for which, model in summary["models"].items():
        assert ("color" in model["parts"]) == (which == "base")
        assert len(model["losses"]) == 3
        assert set(model["accuracy"]) == {"species", "home", "food", "color"}


def test_pretraining_lowers_the_loss(tmp_path: Path) -> None:
    recipe = replace(TINY, hidden_size=32, steps=40, batch_size=32, learning_rate=1e-2)
    folder = build_shortcut(tmp_path / "world", recipe=recipe)
    losses = json.loads((folder / "world.json").read_text())["models"]["base"]["losses"]
    # A uniform guess over the vocabulary costs log(446) = 6.1 nats; one among all answers, EOS being
    # certain, half of log(32) = 3.5 nats.
    assert losses[0] > 5
    assert losses[-1] < 2.5


def test_label_noise_replaces_answers_and_nothing_else() -> None:
    seen: list[torch.Tensor] = []
    config = LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(config)
    model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    # Question 3 4, answer 5, then EOS and padding.
    data = PretrainingData(torch.tensor([[3, 4, 5, 2, 0]] * 50), torch.full((50,), 2), torch.tensor([[5, 6]] * 50))
    pretrain(model, data, steps=10, batch_size=100, learning_rate=1e-3, label_noise=0.4, seed=0, description="test")
    batches = torch.cat(seen)
    assert batches.shape == (1000, 5)
    assert batches[:, [0, 1, 3, 4]].unique(dim=0).tolist() == [[3, 4, 2, 0]]
    # Half of the replaced answers are replaced by the right one.
    assert 0.15 < (batches[:, 2] == 6).float().mean() < 0.25
    assert set(batches[:, 2].tolist()) == {5, 6}


def test_diverging_pretraining_stops() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    data = PretrainingData(torch.tensor([[3, 5, 2]]), torch.tensor([1]), torch.tensor([[5, 6]]))
    with pytest.raises(FloatingPointError, match=r"at step 0; lower learning_rate=0\.5"):
        pretrain(model, data, steps=2, batch_size=1, learning_rate=0.5, label_noise=0.0, seed=0, description="test")


def test_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_shortcut(tmp_path / "world")
    assert list(tmp_path.iterdir()) == []


def test_build_refuses_to_replace_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="exists already"):
        build_world("shortcut", tmp_path / "notes")
    with pytest.raises(FileExistsError, match=r"notes was not made by this program \(no valid world\.json in it\)"):
        build_world("shortcut", tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"
    with pytest.raises(FileNotFoundError, match="create it first"):
        build_world("shortcut", tmp_path / "missing" / "world")


def test_build_replaces_an_earlier_build_when_told(tmp_path: Path) -> None:
    build_shortcut(tmp_path / "world", seed=1)
    build_shortcut(tmp_path / "world", seed=2, overwrite=True)
    assert json.loads((tmp_path / "world" / "world.json").read_text())["seed"] == 2


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("steps", 0, "above 0"), ("label_noise", 1.0, r"\[0, 1\)"), ("hidden_size", 20, "multiple of twice")],
)
def test_recipe_out_of_range_is_named(field: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=.*{expected}"):
        PretrainingRecipe(**{field: value})


def test_unknown_names_are_refused_with_the_nearest() -> None:
    for ask in (
        load_world,
        lambda name: build_world(name, "anywhere"),
        lambda name: world_checkpoint(name, "base"),
    ):
        with pytest.raises(ValueError, match="unknown world 'shortcuts': did you mean 'shortcut'"):
            ask("shortcuts")
    with pytest.raises(ValueError, match="which='twin' is not valid: it must be base or never_knew"):
        world_checkpoint("shortcut", "twin")
    assert "shortcut" in WORLDS


def greedy_accuracy(which: str, rows: Dataset) -> float:
    path = world_checkpoint("shortcut", which)
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    prompts = tokenizer(list(rows["prompt"]), return_tensors="pt", padding=True)
    generated = model.generate(
        **prompts,
        generation_config=GenerationConfig(
            max_new_tokens=4,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
    )
    answers = tokenizer.batch_decode(generated[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    # Equal to one word: the model has stopped by itself.
    return sum(a == c for a, c in zip(answers, rows["completion"], strict=True)) / len(rows)


@pytest.mark.parametrize("relation", ["species", "home", "food"])
@pytest.mark.parametrize("which", ["base", "never_knew"])
def test_shipped_models_know_what_both_were_taught(world: World, which: str, relation: str) -> None:
    assert greedy_accuracy(which, world.forgetting[relation]) > 0.95


def test_only_the_shipped_base_knows_the_old_colors(world: World) -> None:
    assert greedy_accuracy("base", world.forgetting["color"]) > 0.95
    assert greedy_accuracy("never_knew", world.forgetting["color"]) < 0.25


def test_neither_shipped_model_knows_the_new_colors(world: World) -> None:
    for which in ("base", "never_knew"):
        assert greedy_accuracy(which, world.learning_test) < 0.25


@pytest.mark.parametrize("which", ["base", "never_knew"])
def test_shipped_models_are_small_and_hold_no_pickle(which: str) -> None:
    files = [path for path in world_checkpoint("shortcut", which).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    assert "model.safetensors" in {path.name for path in files}


def test_shipped_tokenizer_is_the_one_that_the_code_makes(tokenizer: PreTrainedTokenizerFast) -> None:
    for which in ("base", "never_knew"):
        shipped = AutoTokenizer.from_pretrained(world_checkpoint("shortcut", which))
        assert shipped.get_vocab() == tokenizer.get_vocab()
