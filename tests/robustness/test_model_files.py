"""Base models that are damaged, of another kind than their files say, or not what is fine-tuned: exit code 2."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AddedToken, BertConfig, BertForMaskedLM, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.cli import main
from graceful_forgetting.training.model_checks import check_causal, check_generation_config, check_vocabulary
from graceful_forgetting.training.model_files import outline

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 538090408\n"
)
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"


@pytest.fixture
def folder(tmp_path, make_model, tokenizer) -> Path:
    """A whole model with its tokenizer."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def refused(tmp_path, folder, learning, forgetting, capsys):
    """What a command says of the model in `folder`, which it must refuse before the first stage."""
    for name, rows in (("learn", learning), ("forget", forgetting.select_columns(["prompt"]))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model_name_or_path": str(folder),
        "learning_task": str(tmp_path / "learn.jsonl"),
        "forgetting_tasks": [str(tmp_path / "forget.jsonl")],
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "elicitation_max_new_tokens": 4,
    }

    def message(command: str = "run", **fields) -> str:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **fields}))
        assert main([command, "--config", str(tmp_path / "recipe.yaml")]) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert not (tmp_path / "run" / "self_knowledge").exists()
        return printed.err

    return message


def change_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_weight_is_named(folder, refused):
    change_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    for command in ("run", "elicit", "score", "evaluate"):
        assert "missing are model.layers.1.mlp.up_proj.weight." in refused(command)


def test_weights_too_many_and_of_another_shape_are_named(folder, refused):
    def change(tensors):
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(48, 32)
        tensors["model.norm.weight"] = torch.zeros(16)

    change_weights(folder, change)
    message = refused()
    assert "not in the model are model.layers.2.mlp.up_proj.weight" in message
    assert "of another shape are model.norm.weight ((16,) in the file, (32,) in the model)" in message


def test_tied_weights_and_known_buffers_may_be_missing_or_there(tmp_path, make_model):
    make_model(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    change_weights(
        tmp_path / "tied", lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    )
    outline("model", str(tmp_path / "tied"))
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64)).save_pretrained(
        tmp_path / "gpt2"
    )
    change_weights(
        tmp_path / "gpt2",
        lambda t: t.update({f"transformer.h.0.attn.{name}": torch.ones(1) for name in ("bias", "masked_bias")}),
    )
    outline("model", str(tmp_path / "gpt2"))


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _oversized_header(file: Path) -> None:
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])


class _Marks:
    """Pickled code that would leave a file behind."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


DAMAGE = {
    "half": (_half, "is no file of safetensors, or a damaged one"),
    "empty": (lambda file: file.write_bytes(b""), "is empty: restore the file"),
    "web page": (lambda file: file.write_bytes(WEB_PAGE), "is a web page: download the file again"),
    "git-lfs": (lambda file: file.write_bytes(LFS_POINTER), "is a pointer of git-lfs"),
    "oversized header": (_oversized_header, "is no file of safetensors, or a damaged one"),
    "noise": (lambda file: file.write_bytes(bytes(range(1, 200))), "is no file of safetensors, or a damaged one"),
    "pickle under its name": (
        lambda file: file.write_bytes(pickle.dumps(_Marks(file.parent / "executed"))),
        "is a pickle, which is not read",
    ),
    "archive of torch.save": (lambda file: torch.save({}, file), "is a pickle or an archive, which is not read"),
    "GGUF": (lambda file: file.write_bytes(b"GGUF\x03\x00\x00\x00"), "is a GGUF file: name it in gguf_file"),
    "gone": (Path.unlink, "has no weights: there is no"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_weights_of_another_kind(folder, refused, damage):
    change, expected = DAMAGE[damage]
    change(folder / "model.safetensors")
    message = refused()
    assert expected in message
    assert "model.safetensors" in message
    assert not (folder / "executed").exists()


def test_a_header_whose_length_begins_as_a_pickle_does(folder):
    weights = load_file(folder / "model.safetensors")
    for spaces in range(256):
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "note": "a" * spaces})
        if (folder / "model.safetensors").read_bytes()[:1] == b"\x80":
            break
    assert (folder / "model.safetensors").read_bytes()[:1] == b"\x80"
    outline("model", str(folder))


def test_pickled_weights_are_neither_read_nor_executed(folder, refused):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Marks(folder / "executed")))
    message = refused()
    assert "has its weights in pytorch_model.bin, a pickle" in message
    assert "save the model as safetensors" in message
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    ("shard", "expected"),
    [
        ("other.safetensors", "other.safetensors is missing, and model.safetensors.index.json names it"),
        ("../model.safetensors", "which is not in the model's folder"),
        (3, "has no weight_map from weights to files"),
    ],
)
def test_shards_that_are_not_there(folder, refused, shard, expected):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert expected in refused()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "is not valid JSON"),
        (b"[1]", "holds a JSON list, not an object"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"\xff\xfe{", "is not valid JSON"),
        (WEB_PAGE, "is a web page"),
        (LFS_POINTER, "is a pointer of git-lfs"),
        (b"", "is empty"),
    ],
)
def test_json_of_another_kind(folder, refused, name, content, expected):
    (folder / name).write_bytes(content)
    message = refused()
    assert expected in message
    assert name in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tokenizer.json", {"model": {"type": "none"}}, "is no tokenizer"),
        ("config.json", {}, "cannot be loaded"),
        ("config.json", {"model_type": "none"}, "cannot be loaded"),
        ("config.json", {"model_type": "llama", "hidden_size": "wide"}, "cannot be loaded"),
        ("config.json", {"model_type": "t5"}, "does not write text from left to right"),
        ("generation_config.json", {"max_new_tokens": -1}, "cannot be loaded"),
    ],
)
def test_objects_that_are_no_model(folder, refused, name, content, expected):
    (folder / name).write_text(json.dumps(content))
    assert expected in refused()


def _bert() -> BertConfig:
    return BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, pad_token_id=0
    )


def test_an_encoder_is_refused(folder, refused):
    BertForMaskedLM(_bert()).save_pretrained(folder)
    assert "is BertForMaskedLM, which does not write text from left to right" in refused()
    # The same weights under the name of a decoder.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertLMHeadModel"]}))
    assert "BertLMHeadModel sees later tokens when it predicts one" in refused()


def test_causal_models_pass_and_keep_their_mode(make_model):
    model = make_model(attention_dropout=0.5).train()
    check_causal("model", model)
    assert model.training
    config = _bert()
    config.is_decoder = True
    check_causal("model", BertLMHeadModel(config))


@pytest.mark.parametrize("name", ["eos_token_id", "pad_token_id"])
def test_token_ids_beyond_the_embeddings(folder, refused, name):
    for file in ("config.json", "generation_config.json"):
        whole = (folder / file).read_text()
        (folder / file).write_text(json.dumps({**json.loads(whole), name: 64}))
        message = refused()
        assert f"{name}=64 of its {file.removesuffix('.json')} is beyond its 64 embeddings" in message
        (folder / file).write_text(whole)


def test_ids_that_stand_for_none(make_model, tokenizer):
    model = make_model()
    model.config.eos_token_id, model.generation_config.pad_token_id = [1, 63], -1
    check_vocabulary("model", model, tokenizer)
    check_generation_config("model", model)
    model.config.eos_token_id = [1, 64]
    with pytest.raises(ValueError, match="eos_token_id=64 of its config"):
        check_vocabulary("model", model, tokenizer)


def test_generation_settings_that_could_not_be_saved(folder, refused):
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "do_sample": False}))
    message = refused()
    assert "generation_config is not valid" in message
    assert "temperature" in message


def test_a_tokenizer_with_more_tokens_than_the_model(folder, refused, tokenizer):
    tokenizer.add_tokens(["w60"])
    tokenizer.save_pretrained(folder)
    message = refused()
    assert "token 'w60' of the tokenizer has id 64, and the model has 64 embeddings" in message
    assert "model.resize_token_embeddings(65)" in message


def test_special_tokens_beyond_count_where_they_are_used(make_model, tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<image>", special=True)]})
    check_vocabulary("model", make_model(), tokenizer)
    tokenizer.chat_template = "{{ '<image>' }}{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match="token '<image>' of the tokenizer has id 64"):
        check_vocabulary("model", make_model(), tokenizer)


def test_the_trainer_refuses_the_same(tmp_path, folder, make_model, tokenizer, learning, forgetting):
    def build(model, rows: Dataset | None = forgetting) -> LWFTrainer:
        args = LWFConfig(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True)
        return LWFTrainer(model, args, train_dataset=learning, forget_dataset=rows, processing_class=tokenizer)

    build(str(folder))
    change_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"model='.*': its weights are not .* missing are model\.norm\.weight"):
        build(str(folder))
    encoder = BertLMHeadModel(_bert())
    with pytest.raises(ValueError, match="model: BertLMHeadModel sees later tokens"):
        build(encoder)
    model = make_model()
    model.generation_config.temperature = 0.5
    with pytest.raises(ValueError, match="model: its generation_config is not valid"):
        build(model)
    with pytest.raises(ValueError, match="model: token 'w56' of the tokenizer has id 60"):
        build(make_model(vocab_size=60))


def test_generation_config_of_defaults_is_valid(make_model):
    check_generation_config("model", make_model())
