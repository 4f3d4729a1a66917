"""Adapters on 4-bit and 8-bit weights of bitsandbytes.

`make test` installs it for this file alone: with PEFT it is imported wherever it is installed, which takes seconds and
prints a warning on some processors.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.runtime.fingerprint import fingerprint_model

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.mark.parametrize(
    ("quantised", "error"),
    [
        # On some processors products of 4-bit weights are in bfloat16.
        pytest.param({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 0.02, id="4 bits"),
        # Activations are in 8 bits too, rounded once in a batch and once alone.
        pytest.param({"load_in_8bit": True}, 0.05, id="8 bits"),
    ],
)
def test_qlora_is_scored_exactly_trained_and_saved(
    tmp_path: Path,
    make_model: Any,
    tokenizer: PreTrainedTokenizerFast,
    learning: Dataset,
    forgetting: Dataset,
    quantised: dict[str, Any],
    error: float,
    caplog: Any,
) -> None:
    large = make_model(initializer_range=0.2, hidden_size=64, intermediate_size=128)
    large.save_pretrained(tmp_path / "base")
    config = BitsAndBytesConfig(**quantised)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=config, device_map="cpu")
    settings = FORMULA | {"max_steps": 5, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "unlearn_every": 2}
    settings |= {"per_device_unlearn_batch_size": 4, "bf16": False, "activation_checkpointing": False}
    settings |= {"disable_tqdm": True, "save_strategy": "no", "report_to": "none"}
    trainer = LWFTrainer(
        model,
        LWFConfig(str(tmp_path / "run"), **settings),
        train_dataset=learning,
        forget_dataset=forgetting,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    )
    before = fingerprint_model(trainer.model)
    adapter = {name: parameter for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    base = {name: parameter.detach().clone() for name, parameter in adapter.items()}
    scored = trainer.prepare_unlearning().scored
    assert fingerprint_model(trainer.model) == before
    assert "slow exact path" not in caplog.text
    posterior = trainer.preparation.posterior
    rows = scored.select_columns(["input_ids", "labels"])
    oracle = oracle_confidence_terms(trainer.model, rows, posterior.precision, posterior.precision).quadratic
    quadratic = 0.5 * trainer.args.confidence_step_size**2 * oracle
    assert scored["confidence_quadratic"][:] == pytest.approx(quadratic.tolist(), rel=error)
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 2
    now = fingerprint_model(trainer.model)
    assert now["structure"] == before["structure"]
    assert all(not torch.equal(base[name], parameter) for name, parameter in adapter.items())
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
