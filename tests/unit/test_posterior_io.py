"""A posterior on disk: what is written is read, and nothing that does not fit is accepted."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.config import ConfidenceConfig, PosteriorConfig
from graceful_forgetting.posterior import LearningPosterior, estimate_posterior, fisher
from graceful_forgetting.posterior.fisher import estimate_fisher
from graceful_forgetting.posterior.learning_posterior import POSTERIOR_FILE, reference_mean
from graceful_forgetting.runtime.fingerprint import fingerprint_model

ROWS = Dataset.from_list(
    [
        {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]},
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    ]
)


def tiny_llama(seed: int = 0, **overrides: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "num_attention_heads": 2, **overrides}))


@pytest.fixture
def posterior() -> LearningPosterior:
    return estimate_posterior(tiny_llama(), tiny_llama(seed=1), ROWS, PosteriorConfig(seed=3))


def test_estimate_takes_the_mean_from_the_reference_and_names_its_sources(
    posterior: LearningPosterior,
) -> None:
    reference = dict(tiny_llama(seed=1).named_parameters())
    assert posterior.mean.keys() == reference.keys()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in posterior.mean.items())
    assert posterior.metadata["model"] == fingerprint_model(tiny_llama())
    assert posterior.metadata["estimator"] == "sampled"
    assert posterior.metadata["fisher_at"] == "reference"
    assert posterior.metadata["seed"] == 3
    assert posterior.metadata["num_samples"] == 2
    assert posterior.metadata["versions"]["torch"] == torch.__version__
    json.dumps(posterior.metadata)


def test_a_posterior_made_by_hand_scores_as_the_estimated_one(posterior: LearningPosterior, tmp_path: Path) -> None:
    """Without metadata, what it covers is all that is trained, and names and shapes alone tell another model."""
    mean = {name: weight.detach() for name, weight in tiny_llama(seed=1).named_parameters()}
    own = LearningPosterior(mean, posterior.precision)
    config = ConfidenceConfig(scorer="lwf")
    scores = [score_confidence(tiny_llama(), ROWS, each, config)["forgetting_confidence"] for each in (posterior, own)]
    assert scores[0][:] == scores[1][:]
    own.save_pretrained(tmp_path)
    read = LearningPosterior.from_pretrained(tmp_path, model=tiny_llama())
    assert read.fingerprint() == posterior.fingerprint()
    with pytest.raises(ValueError, match="has shape"):
        own.check_model(tiny_llama(hidden_size=32))


def test_mean_is_a_snapshot_of_the_reference_model() -> None:
    reference = tiny_llama(seed=1)
    posterior = estimate_posterior(tiny_llama(), reference, ROWS)
    before = posterior.mean["lm_head.weight"].clone()
    with torch.no_grad():
        reference.lm_head.weight.zero_()
    assert torch.equal(posterior.mean["lm_head.weight"], before)


def test_a_fingerprint_stands_for_a_model_that_has_been_trained_in_place(
    posterior: LearningPosterior,
) -> None:
    model = tiny_llama()
    base = fingerprint_model(model)
    model.load_state_dict(tiny_llama(seed=1).state_dict())
    in_place = estimate_posterior(base, model, ROWS, PosteriorConfig(seed=3))
    assert in_place.metadata == posterior.metadata
    assert all(torch.equal(in_place.precision[name], tensor) for name, tensor in posterior.precision.items())


@pytest.mark.parametrize("overrides", [{}, {"tie_word_embeddings": True}])
def test_round_trip_is_exact_and_fits_its_model(tmp_path: Path, overrides: dict[str, object]) -> None:
    model = tiny_llama(**overrides)
    posterior = estimate_posterior(model, tiny_llama(seed=1, **overrides), ROWS)
    posterior.save_pretrained(tmp_path / "a" / "posterior")
    loaded = LearningPosterior.from_pretrained(tmp_path / "a" / "posterior", model=model)
    assert loaded.metadata == posterior.metadata
    for name in posterior.mean:
        assert torch.equal(loaded.mean[name], posterior.mean[name])
        assert torch.equal(loaded.precision[name], posterior.precision[name])
    assert ("lm_head.weight" in loaded.mean) == (not overrides)
    assert [path.name for path in (tmp_path / "a" / "posterior").iterdir()] == [POSTERIOR_FILE]


def test_saving_over_an_older_one_keeps_other_files(tmp_path: Path, posterior: LearningPosterior) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    posterior.save_pretrained(tmp_path)
    posterior.precision["lm_head.weight"] += 1
    posterior.save_pretrained(tmp_path)
    loaded = LearningPosterior.from_pretrained(tmp_path)
    assert torch.equal(loaded.precision["lm_head.weight"], posterior.precision["lm_head.weight"])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_another_model_is_refused_by_what_differs(posterior: LearningPosterior) -> None:
    posterior.check_model(tiny_llama())
    with pytest.raises(ValueError, match="contents of the weights"):
        posterior.check_model(tiny_llama(seed=9))
    with pytest.raises(ValueError, match=r"gate_proj\.weight has shape \(40, 16\) in the model, \(24, 16\)"):
        posterior.check_model(tiny_llama(intermediate_size=40))
    with pytest.raises(ValueError, match=r"no parameter lm_head\.weight"):
        posterior.check_model(tiny_llama(tie_word_embeddings=True))
    with pytest.raises(ValueError, match=r"trains parameter model\.layers\.0\.self_attn\.k_proj\.bias \(and 3 more\)"):
        posterior.check_model(tiny_llama(attention_bias=True))
    with pytest.raises(ValueError, match="the names, shapes or types of parameters differ"):
        posterior.check_model(tiny_llama().to(torch.bfloat16))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"no parameter lm_head\.weight"):
        posterior.check_model(gpt2)
    own = {name: p.detach() for name, p in gpt2.named_parameters()}
    claimed = LearningPosterior(own, {name: p**2 for name, p in own.items()}, posterior.metadata)
    with pytest.raises(ValueError, match="GPT2LMHeadModel"):
        claimed.check_model(gpt2)


def test_from_pretrained_checks_the_model_it_is_given(tmp_path: Path, posterior: LearningPosterior) -> None:
    posterior.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="contents of the weights"):
        LearningPosterior.from_pretrained(tmp_path, model=tiny_llama(seed=9))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / POSTERIOR_FILE)):
        LearningPosterior.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "foreign", "newer"])
def test_damaged_file_is_refused(tmp_path: Path, posterior: LearningPosterior, damage: str) -> None:
    posterior.save_pretrained(tmp_path)
    path = tmp_path / POSTERIOR_FILE
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "foreign":
        save_file(load_file(path), path)
    else:
        header = json.dumps({"format_version": 99, "tensors": ""})
        save_file(load_file(path), path, metadata={"graceful_forgetting": header})
    with pytest.raises(ValueError, match=str(path)):
        LearningPosterior.from_pretrained(tmp_path)


def test_impossible_values_are_refused_by_parameter() -> None:
    one = {"a": torch.ones(2), "b": torch.ones(3)}

    def build(mean: dict[str, torch.Tensor], precision: dict[str, torch.Tensor]) -> LearningPosterior:
        return LearningPosterior(mean, precision, {})

    assert build(one, {**one, "b": torch.zeros(3)}).precision["b"].sum() == 0
    with pytest.raises(ValueError, match="precision of b has negative"):
        build(one, {**one, "b": torch.tensor([1.0, -1e-9, 0.0])})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="precision of b is not finite"):
            build(one, {**one, "b": torch.tensor([1.0, value, 0.0])})
        with pytest.raises(ValueError, match="mean of a is not finite"):
            build({**one, "a": torch.tensor([1.0, value])}, one)
    with pytest.raises(ValueError, match="only one has b"):
        build(one, {"a": torch.ones(2)})
    with pytest.raises(ValueError, match=r"precision of a has shape \(3,\)"):
        build(one, {**one, "a": torch.ones(3)})


def test_models_that_train_different_parameters_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"in the model, .* in the reference model"):
        estimate_posterior(tiny_llama(), tiny_llama(intermediate_size=40), ROWS)
    with pytest.raises(ValueError, match="reference_model has no parameter that requires a gradient"):
        estimate_posterior(tiny_llama(), tiny_llama().requires_grad_(False), ROWS)


def test_another_rope_theta_is_another_model(posterior: LearningPosterior) -> None:
    other = tiny_llama(rope_parameters={"rope_theta": 500.0, "rope_type": "default"})
    other.load_state_dict(tiny_llama().state_dict())
    with pytest.raises(ValueError, match=r"settings of the architecture \(rope_theta"):
        posterior.check_model(other)


def test_trace_and_coverage_are_recorded(posterior: LearningPosterior) -> None:
    total = sum(float(tensor.double().sum()) for tensor in posterior.precision.values())
    assert posterior.metadata["trace"] == pytest.approx(total, rel=1e-5)
    assert posterior.metadata["trace_standard_error"] > 0
    assert posterior.coverage == {"space": "trainable", "pattern": None, "last_blocks": None}
    assert not posterior.is_partial()


# F at θ_base ----------------------------------------------------------------------------------------------------------

AT_BASE = PosteriorConfig(fisher_at="base", seed=3)


@pytest.mark.parametrize("estimator", ["sampled", "empirical", "exact"])
def test_fisher_at_base_is_that_of_the_base_model_around_the_reference_mean(estimator: str) -> None:
    base, reference = tiny_llama(), tiny_llama(seed=1)
    config = PosteriorConfig(fisher_at="base", estimator=estimator, seed=3)
    found = estimate_posterior(base, reference, ROWS, config)
    expected = estimate_fisher(tiny_llama(), ROWS, PosteriorConfig(estimator=estimator, seed=3))
    elsewhere = estimate_fisher(reference, ROWS, PosteriorConfig(estimator=estimator, seed=3))
    assert found.precision.keys() == expected.keys()
    for name, parameter in reference.named_parameters():
        assert torch.equal(found.mean[name], parameter)
        assert torch.equal(found.precision[name], expected[name])
        assert not torch.equal(found.precision[name], elsewhere[name])
    assert (found.metadata["fisher_at"], found.metadata["estimator"]) == ("base", estimator)
    assert found.metadata["model"] == fingerprint_model(tiny_llama())
    found.check_model(base)
    # Another reference run moves the mean alone.
    again = estimate_posterior(base, tiny_llama(seed=2), ROWS, config)
    assert all(torch.equal(again.precision[name], values) for name, values in expected.items())
    assert not torch.equal(again.mean["lm_head.weight"], found.mean["lm_head.weight"])


def test_the_weights_of_the_reference_stand_for_a_model_that_was_set_back() -> None:
    expected = estimate_posterior(tiny_llama(), tiny_llama(seed=1), ROWS, AT_BASE)
    model = tiny_llama(seed=1)
    mean = reference_mean(model, AT_BASE)
    with torch.no_grad():
        for name, parameter in tiny_llama().named_parameters():
            model.get_parameter(name).copy_(parameter)
    found = estimate_posterior(model, mean, ROWS, AT_BASE)
    assert found.metadata == expected.metadata
    for name, values in expected.mean.items():
        assert torch.equal(found.mean[name], values)
        assert torch.equal(found.precision[name], expected.precision[name])


def test_a_mean_alone_is_that_of_the_whole_posterior_and_survives_the_file(tmp_path: Path) -> None:
    whole = estimate_posterior(tiny_llama(), tiny_llama(seed=1), ROWS)
    # Where F would be estimated does not matter: the base model stands for itself as its fingerprint.
    base = fingerprint_model(tiny_llama())
    for config in (PosteriorConfig(), PosteriorConfig(fisher_at="base")):
        alone = estimate_posterior(base, tiny_llama(seed=1), ROWS, config, with_fisher=False)
        assert not alone.has_fisher
        assert alone.metadata["estimator"] is None
        assert alone.metadata["data"] == whole.metadata["data"]
    alone.save_pretrained(tmp_path)
    read = LearningPosterior.from_pretrained(tmp_path, tiny_llama())
    assert not read.has_fisher
    assert read.mean.keys() == whole.mean.keys()
    assert all(torch.equal(tensor, whole.mean[name]) for name, tensor in read.mean.items())
    part = read.subset("lm_head")
    assert (list(part.mean), part.precision) == (["lm_head.weight"], {})


def test_where_fisher_is_estimated_survives_the_file(tmp_path: Path) -> None:
    estimate_posterior(tiny_llama(), tiny_llama(seed=1), ROWS, AT_BASE).save_pretrained(tmp_path)
    assert LearningPosterior.from_pretrained(tmp_path, model=tiny_llama()).metadata["fisher_at"] == "base"


def test_sums_at_the_reference_are_not_taken_up_at_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fisher, "SHARD_SIZE", 1)

    def estimated(fisher_at: str, folder: Path | None) -> LearningPosterior:
        config = PosteriorConfig(fisher_at=fisher_at, batch_size=1)
        return estimate_posterior(tiny_llama(), tiny_llama(seed=1), ROWS, config, resume_dir=folder)

    for fisher_at in ("reference", "base", "base", "reference"):
        found, fresh = estimated(fisher_at, tmp_path), estimated(fisher_at, None)
        assert all(torch.equal(found.precision[name], values) for name, values in fresh.precision.items())


def test_what_fisher_at_one_of_the_models_cannot_do_without_is_named() -> None:
    base, reference = tiny_llama(), tiny_llama(seed=1)
    with pytest.raises(ValueError, match=r"fisher_at='base' needs the base model itself, .*its fingerprint only"):
        estimate_posterior(fingerprint_model(base), reference, ROWS, AT_BASE)
    with pytest.raises(ValueError, match="fisher_at='base': model and reference_model are the same module"):
        estimate_posterior(base, base, ROWS, AT_BASE)
    with pytest.raises(ValueError, match=r"fisher_at='reference' needs the reference model itself, .*weights only"):
        estimate_posterior(base, reference_mean(reference), ROWS)
    part = reference_mean(reference, PosteriorConfig(fisher_at="base", parameters="pattern:mlp"))
    with pytest.raises(ValueError, match=r"trains parameter lm_head\.weight .*the reference model does not have"):
        estimate_posterior(base, part, ROWS, AT_BASE)
    wider = PosteriorConfig(fisher_at="base", parameters="pattern:mlp|norm")
    with pytest.raises(
        ValueError, match=r"layernorm\.weight .*is covered by config, and reference_model has no weights"
    ):
        estimate_posterior(base, part, ROWS, wider)
    base.lm_head.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"lm_head\.weight does not require a gradient in the base model"):
        estimate_posterior(base, reference, ROWS, AT_BASE)


class _Made(TorchDispatchMode):
    """Notes how many entries the largest tensor has that an operation makes anew."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {tensor.data_ptr() for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)}
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.data_ptr() not in given]
        self.largest = max([self.largest, *(tensor.numel() for tensor in made)])
        return result


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), -float("inf")])
def test_the_check_of_values_makes_nothing_of_their_size(bad: float | None) -> None:
    """At 135 M parameters one copy of the largest tensor is 113 MB beside the model."""
    values = torch.randn(64, 32)
    posterior = LearningPosterior({"weight": values}, {"weight": values.abs()}, {})
    if bad is not None:
        posterior.mean["weight"][3, 5] = bad
    with _Made() as made, nullcontext() if bad is None else pytest.raises(ValueError, match="weight"):
        posterior.check_values()
    assert made.largest < 10
