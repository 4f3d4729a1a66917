"""Every example of docs/how-to/add-a-method.md, taken from the page: in real scoring and in real updates."""

import copy
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset

from graceful_forgetting import LearningPosterior, LWFConfig, LWFTrainer, score_confidence, select_for_unlearning
from graceful_forgetting.baselines import BASELINES
from graceful_forgetting.confidence.scorers import scorer_named
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.runs.recipe import recipe_from_fields
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.tasks import load_task, resolve_task, score_answers
from graceful_forgetting.unlearning.objectives import UnlearningBatch, objective_of

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md").read_text(encoding="utf-8")
RELATIVE = "my_methods:RelativeInterferenceScorer"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the Python of the page defines, by name; it is the module `my_methods`, which a user would write."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "my_methods.py").write_text("\n".join(blocks("python")), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield vars(importlib.import_module("my_methods"))
    del sys.modules["my_methods"]


def config(folder: Path, **changes: Any) -> LWFConfig:
    fixed = {"max_steps": 2, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
    quiet = {"save_strategy": "no", "per_device_train_batch_size": 8, "learning_rate": 3e-3, "seed": 1}
    return LWFConfig(output_dir=str(folder), **{**fixed, **quiet, **changes})


def tokens(count: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(4, 64, (4 + i % 3,), generator=generator).tolist() for i in range(count)]
    return Dataset.from_list([{"input_ids": row, "labels": [-100, *row[1:]]} for row in ids])


def logits_of(model: Any, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits[0, :-1], ids[0, 1:]


def test_relative_interference_scores(example, make_model) -> None:
    model, reference, rows = make_model(), make_model(seed=1), tokens(7)
    posterior = LearningPosterior(
        {name: p.detach() for name, p in reference.named_parameters()}, {}, {"model": fingerprint_model(model)}
    )
    assert ConfidenceConfig(scorer=example["RelativeInterferenceScorer"]).scorer == RELATIVE
    scored = score_confidence(model, rows, posterior, ConfidenceConfig(scorer=RELATIVE, batch_size=3))
    for row, score in zip(rows, scored["forgetting_confidence"], strict=True):
        base, learned = (torch.nn.functional.cross_entropy(*logits_of(m, row)).item() for m in (model, reference))
        assert score == pytest.approx((learned - base) / base, rel=1e-4, abs=1e-6)


def test_a_new_measurement_is_scored_and_resumed(example, make_model, monkeypatch, tmp_path) -> None:
    model, rows = make_model(), tokens(7)
    settings = ConfidenceConfig(scorer=example["SurpriseScorer"], batch_size=3)
    scored = score_confidence(model, rows, None, settings, resume_dir=tmp_path)["forgetting_confidence"][:]
    expected = [int((logits.argmax(dim=-1) != ids).sum()) for logits, ids in (logits_of(model, row) for row in rows)]
    assert scored == expected
    monkeypatch.setattr(example["Surprises"], "measure", None)
    assert score_confidence(model, rows, None, settings, resume_dir=tmp_path)["forgetting_confidence"][:] == expected


def test_a_recipe_names_both_by_their_import_path(example) -> None:
    (page,) = (block for block in blocks("yaml") if "confidence_scorer" in block)
    _, args, _ = recipe_from_fields(
        {"world": "shortcut", "output_dir": "unused", **yaml.safe_load(page)}, "recipe.yaml"
    )
    assert isinstance(scorer_named(args.confidence_scorer), example["RelativeInterferenceScorer"])
    assert isinstance(objective_of(args), example["LogAscent"])


def test_scores_of_ones_own_are_selected_by(example) -> None:
    rows = example["with_scores"](Dataset.from_dict({"prompt": ["a", "b"]}), [0.0, 1.0])
    assert select_for_unlearning(rows, count=1)["prompt"] == ["b"]


def test_log_ascent_takes_updates(example, make_model, tokenizer, learning, forgetting, tmp_path) -> None:
    objective = example["LogAscent"]()
    log_probs = torch.tensor([[-1.0, -3.0], [-6.0, 0.0]])
    batch = UnlearningBatch(log_probs=log_probs, mask=torch.tensor([[True, True], [True, False]]))
    torch.testing.assert_close(objective.values(batch), -torch.log(torch.tensor([3.0, 5.0])))
    assert objective.active(batch).tolist() == [True, False]

    assert example["args"].unlearn_objective == "my_methods:LogAscent"
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    scored = example["with_scores"](forgetting, [float(i) for i in range(len(forgetting))])
    settings = {"unlearn_objective": example["LogAscent"], "unlearn_every": 1, "forget_count": 8}
    args = config(tmp_path, **settings)
    trainer = LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, forget_dataset=scored)
    trainer.train()
    assert trainer.unlearning_summary()["updates"] >= 1
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_kept_embedding_takes_updates(example, make_model, tokenizer, learning, monkeypatch, tmp_path) -> None:
    """The pull back to where the embedding was leaves it nearer to there."""
    monkeypatch.setitem(BASELINES, "l2_sp", example["KeptEmbedding"])
    moved = []
    for strength in (1e-6, 1e4):
        model = make_model()
        base = model.get_input_embeddings().weight.detach().clone()
        args = config(tmp_path, max_steps=4, unlearn_every=0, baseline="l2_sp", baseline_weight=strength)
        LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer).train()
        moved.append(float((model.get_input_embeddings().weight.detach() - base).norm()))
    assert 0 < moved[1] < moved[0]


def test_the_task_makes_rows(tmp_path) -> None:
    (page,) = (block for block in blocks("yaml") if "name: capitals" in block)
    (tmp_path / "capitals.yaml").write_text(page, encoding="utf-8")
    for split in ("train", "test"):
        path = tmp_path / "capitals" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"country": "France", "capital": "Paris"}) + "\n", encoding="utf-8")
    task = resolve_task(str(tmp_path / "capitals.yaml"))
    row = load_task(task, "test")[0]
    assert (row["prompt"], row["completion"]) == ("The capital of France is", " Paris")
    assert score_answers(task, [" Paris\nmore", "Rome"], ["Paris", "Paris"]).correct == [True, False]
