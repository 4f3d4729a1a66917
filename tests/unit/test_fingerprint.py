"""Content hashes change with the content and with nothing else."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from graceful_forgetting.runtime.fingerprint import fingerprint_model, fingerprint_rows, fingerprint_tensors
from graceful_forgetting.runtime.hashes import fingerprint_json


def tiny_llama(**overrides: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, "num_attention_heads": 2, **overrides}))


def test_model_fingerprint_survives_saving_and_follows_one_weight(tmp_path: Path) -> None:
    model = tiny_llama()
    fingerprint = fingerprint_model(model)
    assert fingerprint["class"] == "LlamaForCausalLM"
    assert fingerprint["model_type"] == "llama"
    assert fingerprint["num_parameters"] == sum(p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path)
    assert fingerprint_model(LlamaForCausalLM.from_pretrained(tmp_path)) == fingerprint
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 4] += 1e-6
    changed = fingerprint_model(model)
    assert changed["weights"] != fingerprint["weights"]
    assert changed["structure"] == fingerprint["structure"]


@pytest.mark.parametrize("other", [{"intermediate_size": 32}, {"tie_word_embeddings": True}])
def test_model_structure_counts_names_and_shapes(other: dict[str, object]) -> None:
    assert fingerprint_model(tiny_llama(**other))["structure"] != fingerprint_model(tiny_llama())["structure"]


def test_model_type_counts_bfloat16_too() -> None:
    model = tiny_llama().to(torch.bfloat16)
    fingerprint = fingerprint_model(model)
    assert fingerprint == fingerprint_model(copy.deepcopy(model))
    assert fingerprint["structure"] != fingerprint_model(tiny_llama())["structure"]


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")
def test_adapters_and_the_frozen_base_both_count() -> None:
    def adapted() -> nn.Module:
        return get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))

    model, fingerprint = adapted(), fingerprint_model(adapted())
    assert fingerprint_model(model)["structure"] == fingerprint["structure"]
    for part in ("lora_B", "embed_tokens"):
        model = adapted()
        before = fingerprint_model(model)["weights"]
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if part in name).add_(1.0)
        assert fingerprint_model(model)["weights"] != before


def test_rows_hash_by_value_not_by_storage(tmp_path: Path) -> None:
    rows = [{"ids": [index, 2], "text": f"é {index}", "extra": index} for index in range(5)]
    dataset = Dataset.from_list(rows)
    expected = fingerprint_rows(dataset, ["ids", "text"])
    chunked = concatenate_datasets([dataset.select([0, 1]), dataset.select([2, 3, 4])])
    dataset.save_to_disk(tmp_path / "moved")
    same = [
        chunked,
        Dataset.load_from_disk(str(tmp_path / "moved")),
        dataset.remove_columns("extra"),
        dataset.with_format("torch", columns=["ids"]),
    ]
    for other in same:
        assert fingerprint_rows(other, ["text", "ids"]) == expected
    assert fingerprint_rows(rows, ["ids", "text"]) == expected
    assert fingerprint_rows(rows) == fingerprint_rows(dataset) != expected


def test_rows_that_are_read_in_parts_hash_as_they_do_singly() -> None:
    rows = [{"turns": [{"role": "user", "content": f"é {i}"}], "score": None if i % 2 else i / 3} for i in range(2001)]
    dataset = Dataset.from_list(rows).select(range(2000, -1, -1))
    assert (
        fingerprint_rows(dataset) == fingerprint_rows([dataset[i] for i in range(2001)]) == fingerprint_rows(rows[::-1])
    )


def test_rows_hash_follows_every_value_and_the_order() -> None:
    dataset = Dataset.from_list([{"ids": [1, 2]}, {"ids": [3]}])
    others = [
        [{"ids": [1, 2]}, {"ids": [4]}],
        [{"ids": [3]}, {"ids": [1, 2]}],
        [{"ids": [1]}, {"ids": [2, 3]}],
    ]
    hashes = {fingerprint_rows(dataset), *(fingerprint_rows(other) for other in others)}
    assert len(hashes) == 4


def test_missing_column_is_named() -> None:
    with pytest.raises(KeyError, match="labels"):
        fingerprint_rows(Dataset.from_list([{"ids": [1]}]), ["labels"])


def test_json_hash_ignores_key_order_only() -> None:
    assert fingerprint_json({"a": 1, "b": [1, 2]}) == fingerprint_json({"b": [1, 2], "a": 1})
    assert fingerprint_json({"a": [2, 1]}) != fingerprint_json({"a": [1, 2]})
    with pytest.raises(TypeError):
        fingerprint_json({"a": object()})


def test_tensor_hash_counts_type_shape_and_bytes_not_strides() -> None:
    values = torch.arange(6.0).view(2, 3)
    expected = fingerprint_tensors({"a": values, "b": torch.ones(())})
    assert fingerprint_tensors({"b": torch.ones(()), "a": values.t().contiguous().t()}) == expected
    others = [values.view(3, 2), values.to(torch.bfloat16), values + 1]
    assert all(fingerprint_tensors({"a": other, "b": torch.ones(())}) != expected for other in others)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 4},
        {"rms_norm_eps": 1e-3},
    ],
)
def test_equal_weights_in_another_architecture_are_another_model(change: dict[str, object]) -> None:
    model, other = tiny_llama(), tiny_llama(**change)
    other.load_state_dict(model.state_dict())
    one, two = fingerprint_model(model), fingerprint_model(other)
    assert one["weights"] == two["weights"]
    assert one["structure"] == two["structure"]
    assert one["config"] != two["config"]


def test_settings_that_trainers_change_are_no_architecture() -> None:
    model = tiny_llama()
    before = fingerprint_model(model)
    model.config.pad_token_id = 7
    model.config.eos_token_id = [3, 4]
    model.config.use_cache = False
    model.config.architectures = ["LlamaForCausalLM"]
    model.config._attn_implementation = "eager"
    model.config._name_or_path = "elsewhere"
    assert fingerprint_model(model) == before


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")
def test_scale_of_an_adapter_counts_and_its_mode_does_not() -> None:
    def adapted(**changes: object) -> dict[str, object]:
        torch.manual_seed(1)
        return fingerprint_model(get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], **changes)))

    assert adapted(lora_alpha=4)["config"] != adapted(lora_alpha=8)["config"]
    assert adapted(inference_mode=True) == adapted(inference_mode=False)


def test_four_bit_codes_count_in_any_order_and_shape() -> None:
    def layer(codes: list[int], *shape: int) -> nn.Module:
        module = nn.Module()
        weight = torch.tensor(codes, dtype=torch.uint8).view(shape)
        module.weight = nn.Parameter(weight, requires_grad=False)
        return module

    codes = [0x12, 0x3F, 0x00, 0xA7]
    assert fingerprint_model(layer(codes, 4, 1)) == fingerprint_model(layer([0x21, 0x00, 0xF3, 0x7A], 2, 2))
    assert (
        fingerprint_model(layer(codes, 4, 1))["weights"]
        != fingerprint_model(layer([0x12, 0x3F, 0x01, 0xA7], 4, 1))["weights"]
    )
    assert fingerprint_model(layer(codes, 4, 1))["structure"] != fingerprint_model(layer(codes[:3], 3, 1))["structure"]
