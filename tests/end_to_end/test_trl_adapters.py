"""Adapters as TRL trains them: which weights, in which precision, saved and loaded back."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.runtime.fingerprint import fingerprint_model

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture
def build(
    tmp_path: Path, make_model: Any, tokenizer: PreTrainedTokenizerFast, learning: Dataset, forgetting: Dataset
) -> Callable[..., LWFTrainer]:
    def make(model: nn.Module | None = None, peft_config: Any = None, **settings: Any) -> LWFTrainer:
        given = FORMULA | {"max_steps": 5, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "unlearn_every": 2}
        given |= {"per_device_unlearn_batch_size": 4, "bf16": False, "activation_checkpointing": False}
        given |= {"disable_tqdm": True, "save_strategy": "no", "report_to": "none"}
        return LWFTrainer(
            make_model() if model is None else model,
            LWFConfig(str(tmp_path / "run"), **{**given, **settings}),
            train_dataset=learning,
            forget_dataset=forgetting,
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return make


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


@torch.no_grad()
def logits(model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    return model.eval()(**tokenizer("w1 w2 w41 w7 w55", return_tensors="pt", return_token_type_ids=False)).logits


ADAPTERS = {
    "lora": LORA,
    "dora": LORA | {"use_dora": True},
    "rslora": LORA | {"use_rslora": True},
    "modules_to_save": LORA | {"modules_to_save": ["lm_head"]},
    "two modules to save": LORA | {"modules_to_save": ["lm_head", "embed_tokens"]},
    "embedding": LORA | {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": LORA | {"trainable_token_indices": [41, 55]},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_trained_is_scored_exactly_and_unlearned(build: Any, tokenizer: Any, name: str) -> None:
    trainer = build(peft_config=LoraConfig(**ADAPTERS[name]))
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    base = parameters(trainer.model)
    preparation = trainer.prepare_unlearning()
    assert changed(base, trainer.model) == set()
    assert set(preparation.posterior.precision) == trained
    values = ParameterValues(trainer.model, trained)
    posterior = preparation.posterior
    linear = {name: f * (values[name] - posterior.mean[name]) for name, f in posterior.precision.items()}
    rows = preparation.scored.select_columns(["input_ids", "labels"])
    oracle = oracle_confidence_terms(trainer.model, rows, linear, posterior.precision)
    alpha = trainer.args.confidence_step_size
    for column, terms in (("linear", -alpha * oracle.linear), ("quadratic", 0.5 * alpha**2 * oracle.quadratic)):
        found = torch.tensor(preparation.scored[f"confidence_{column}"][:], dtype=torch.float64)
        torch.testing.assert_close(found, terms, rtol=1e-4, atol=1e-5 * float(terms.abs().max()))
    trainer.train()
    assert changed(base, trainer.model) == trained
    assert trainer.unlearning_summary()["updates"] == 2


@pytest.mark.parametrize("name", ["lora", "modules_to_save"])
def test_an_adapter_is_saved_alone_and_loaded_back(
    tmp_path: Path, build: Any, make_model: Any, tokenizer: Any, name: str
) -> None:
    make_model().save_pretrained(tmp_path / "base")
    trainer = build(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), LoraConfig(**ADAPTERS[name]))
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    assert not list((tmp_path / "adapter").glob("model*.safetensors"))
    expected = logits(trainer.model, tokenizer)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded, tokenizer), expected)
    assert not torch.allclose(logits(make_model(), tokenizer), expected)


@pytest.mark.parametrize("name", ["lora", "modules_to_save"])
def test_an_adapter_is_merged_saved_and_loaded_back(tmp_path: Path, build: Any, tokenizer: Any, name: str) -> None:
    trainer = build(peft_config=LoraConfig(**ADAPTERS[name]))
    trainer.train()
    expected = logits(trainer.model, tokenizer)
    trainer.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded, tokenizer), expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_ones_own_is_trained_on(build: Any, make_model: Any) -> None:
    model = get_peft_model(make_model(), LoraConfig(**LORA))
    trainer = build(model)
    trainer.train()
    assert trainer.model is model
    assert trainer.unlearning_summary()["updates"] == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frozen_base_in_another_precision(build: Any, make_model: Any, dtype: torch.dtype, caplog: Any) -> None:
    """As QLoRA has it: the base is frozen in few bits, the adapter is trained in float32."""
    trainer = build(make_model(initializer_range=0.2).to(dtype), LoraConfig(**LORA), bf16=True, use_cpu=True)
    kinds = {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert kinds == {torch.float32}
    base = parameters(trainer.model)
    scored = trainer.prepare_unlearning().scored
    assert fingerprint_model(trainer.model)["weights"] == trainer.preparation.posterior.metadata["model"]["weights"]
    assert changed(base, trainer.model) == set()
    posterior = trainer.preparation.posterior
    assert "slow exact path" not in caplog.text
    exact = deepcopy(trainer.model).float()
    # The trainer's wrapping of the forward pass stays with the model that it was made for.
    vars(exact.get_base_model()).pop("forward")
    rows = scored.select_columns(["input_ids", "labels"])
    oracle = oracle_confidence_terms(exact, rows, posterior.precision, posterior.precision).quadratic
    quadratic = 0.5 * trainer.args.confidence_step_size**2 * oracle
    assert scored["confidence_quadratic"][:] == pytest.approx(quadratic.tolist(), rel=0.15)
    trainer.train()
    assert changed(base, trainer.model) == {name for name in base if "lora_" in name}


def test_virtual_tokens_are_refused_before_any_work(tmp_path: Path, build: Any) -> None:
    with pytest.raises(ValueError, match=r"peft_config adds virtual tokens .PROMPT_TUNING.*use LoRA"):
        build(peft_config=PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert not (tmp_path / "run" / "preparation").exists()


def test_an_adapter_on_the_head_is_refused_by_trl(build: Any) -> None:
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        build(peft_config=LoraConfig(**LORA | {"target_modules": ["q_proj", "lm_head"]}))
