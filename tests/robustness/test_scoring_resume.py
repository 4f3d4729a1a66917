"""Long scoring runs: killed and resumed, estimated before they start, refused when they cannot fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM

from graceful_forgetting.confidence import score_confidence, shards
from graceful_forgetting.confidence.forgetting_terms import ForgettingTerms, LineSearchTerms
from graceful_forgetting.confidence.losses import Losses, ReferenceLosses
from graceful_forgetting.confidence.scorer import Measurement
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients import memory as estimate
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.runtime.fingerprint import fingerprint_model

LONG = 30
CONFIG = ConfidenceConfig(scorer="lwf", batch_size=2)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_SIZE", 4)


@pytest.fixture
def model(make_model) -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def posterior(model: LlamaForCausalLM) -> LearningPosterior:
    mean = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
    return LearningPosterior(
        mean, {n: torch.ones_like(p) for n, p in mean.items()}, {"model": fingerprint_model(model)}
    )


@pytest.fixture
def rows() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(LONG):
        ids = torch.randint(4, 64, (3 + index % 6,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]]})
    return Dataset.from_list(rows)


class Counter:
    """Counts the rows that a measurement measures and interrupts it before a batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
        self.rows = 0
        self.left: int | None = None
        measure = kind.measure

        def counted(this: Measurement, indices: Sequence[int]) -> Mapping[str, Tensor]:
            if self.left == 0:
                raise KeyboardInterrupt
            if self.left is not None:
                self.left -= 1
            self.rows += len(indices)
            return measure(this, indices)

        monkeypatch.setattr(kind, "measure", counted)


@pytest.mark.parametrize("rule", ["fixed", "crossover"])
def test_a_killed_run_goes_on_from_its_last_shard(
    model: LlamaForCausalLM, posterior: LearningPosterior, rows: Dataset, tmp_path: Path, monkeypatch, rule: str
) -> None:
    config = replace(CONFIG, step_size_rule=rule)
    whole = score_confidence(model, rows, posterior, config)
    counter = Counter(monkeypatch, ForgettingTerms)
    counter.left = 8  # three of them are the pilot: the shortest, longest and middling batch
    with pytest.raises(KeyboardInterrupt):
        score_confidence(model, rows, posterior, config, resume_dir=tmp_path)
    saved = list(tmp_path.iterdir())
    assert 0 < len(saved) < 8
    assert not any("partial" in path.name for path in saved)
    counter.left, counter.rows = None, 0
    said: list[str] = []
    resumed = score_confidence(model, rows, posterior, config, resume_dir=tmp_path, announce=said.append)
    assert counter.rows == LONG - 4 * len(saved)
    assert f"{len(saved)} of 8 shards" in " ".join(said)
    assert resumed.to_dict() == whole.to_dict()
    counter.rows = 0
    assert score_confidence(model, rows, posterior, config, resume_dir=tmp_path).to_dict() == whole.to_dict()
    assert counter.rows == 0


def test_shards_of_other_work_are_not_taken_up(
    model: LlamaForCausalLM, posterior: LearningPosterior, rows: Dataset, tmp_path: Path, monkeypatch
) -> None:
    score_confidence(model, rows, posterior, CONFIG, resume_dir=tmp_path)
    counter = Counter(monkeypatch, ForgettingTerms)
    # The same measurement serves other scorers and step sizes.
    for same in (replace(CONFIG, step_size=3.0, scorer="overlap"), replace(CONFIG, step_size_rule="crossover")):
        found = score_confidence(model, rows, posterior, same, resume_dir=tmp_path)
        assert counter.rows == 0
        assert found.to_dict() == score_confidence(model, rows, posterior, same).to_dict()
        counter.rows = 0
    precision = {name: 2 * values for name, values in posterior.precision.items()}
    doubled = LearningPosterior(posterior.mean, precision, posterior.metadata)
    polyak = ConfidenceConfig(scorer="lwf", batch_size=2, step_size_rule="polyak")
    reordered = rows.select(list(reversed(range(LONG))))
    for work in ((rows, doubled, CONFIG), (rows, posterior, polyak), (reordered, posterior, CONFIG)):
        counter.rows = 0
        score_confidence(model, *work, resume_dir=tmp_path)
        assert counter.rows == LONG


def test_a_damaged_shard_is_made_again(
    model: LlamaForCausalLM, posterior: LearningPosterior, rows: Dataset, tmp_path: Path, monkeypatch
) -> None:
    whole = score_confidence(model, rows, posterior, CONFIG, resume_dir=tmp_path)
    victim = sorted(tmp_path.iterdir())[2]
    (values,) = victim.glob("*.safetensors")
    values.write_bytes(values.read_bytes()[:40])
    counter = Counter(monkeypatch, ForgettingTerms)
    assert score_confidence(model, rows, posterior, CONFIG, resume_dir=tmp_path).to_dict() == whole.to_dict()
    assert counter.rows == 4


def test_memory_and_time_are_announced_before_the_work(
    model: LlamaForCausalLM, posterior: LearningPosterior, rows: Dataset
) -> None:
    said: list[str] = []
    score_confidence(model, rows, posterior, CONFIG, announce=said.append)
    assert said[0].startswith(f"Scoring {LONG} samples in 15 batches: about ")
    assert "free" in said[0]
    assert said[1].startswith("About ")
    assert said[1].endswith("for 15 batches")
    said.clear()
    score_confidence(model, rows, posterior, ConfidenceConfig(scorer="lwf", batch_size=16), announce=said.append)
    assert len(said) == 1, "two batches are too few to be timed first"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, r"weights='streamed'"),
        ({"step_size_rule": "line_search"}, r"step_size_rule='polyak'"),
        ({"scorer": "interference"}, "last_blocks"),
        ({"scorer": "loss", "batch_size": 8}, r"lower batch_size \(8\)"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(
    model: LlamaForCausalLM,
    posterior: LearningPosterior,
    rows: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    remedy: str,
) -> None:
    monkeypatch.setattr(estimate, "available_bytes", lambda _: 2**10)
    kinds = (ForgettingTerms, LineSearchTerms, Losses, ReferenceLosses)
    counters = [Counter(monkeypatch, kind) for kind in kinds]
    config = ConfidenceConfig(**{"scorer": "lwf", "batch_size": 2, **settings})
    with pytest.raises(ValueError, match=rf"does not fit: about [\d.]+ MiB of memory on cpu .*0\.0 MiB free.*{remedy}"):
        score_confidence(model, rows, posterior, config)
    assert [counter.rows for counter in counters] == [0, 0, 0, 0]


def test_the_estimate_grows_with_the_batch_and_shrinks_with_streaming(
    model: LlamaForCausalLM, posterior: LearningPosterior, rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[estimate.MemoryEstimate] = []
    monkeypatch.setattr(estimate.MemoryEstimate, "require_fit", lambda self, *_: found.append(self))
    for settings in ({"batch_size": 2}, {"batch_size": 4}, {"weights": "streamed"}):
        score_confidence(model, rows, posterior, ConfidenceConfig(**{"scorer": "lwf", **settings}))
    small, large, streamed = found
    assert large.activations == 2 * small.activations
    parameters = [parameter.numel() for parameter in model.parameters()]
    assert small.weights == 4 * sum(parameters)
    assert streamed.weights == 4 * max(parameters)


def test_a_forward_pass_is_announced_with_its_layers_and_its_logits_once(model: LlamaForCausalLM) -> None:
    """Per position hidden states take several times the width and the logits the vocabulary, of 4 bytes each."""
    ids = torch.randint(model.config.vocab_size, (1, 16))
    row = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    wide = 15 * model.config.vocab_size * 4
    found = estimate.forward_bytes(model, row, 1)
    widths = (found / 1.2 - 2 * wide) / (16 * 4)
    assert 2 * model.config.hidden_size < widths < 20 * (model.config.hidden_size + model.config.intermediate_size)
    assert estimate.forward_bytes(model, row, 4) == pytest.approx(4 * found, rel=1e-3)


def test_a_layer_as_wide_as_the_vocabulary_is_not_taken_for_the_logits(
    make_model: Callable[..., LlamaForCausalLM],
) -> None:
    ids = torch.arange(16).unsqueeze(0)
    row = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    alike, wider = (
        estimate.forward_bytes(make_model(vocab_size=vocabulary, intermediate_size=64), row, 1)
        for vocabulary in (64, 65)
    )
    assert alike == pytest.approx(wider, rel=0.02)
