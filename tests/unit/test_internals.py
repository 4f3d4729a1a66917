"""What the package relies on in TRL, transformers and accelerate beyond what they document."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, MistralConfig
from trl import SFTConfig, SFTTrainer

from graceful_forgetting.data import collate, tokenize_dataset
from graceful_forgetting.gradients.token_loss import sequence_losses
from graceful_forgetting.runtime import internals


@pytest.fixture
def build(tmp_path, make_model, tokenizer, learning):
    def make(kind: type[SFTTrainer] = SFTTrainer, **settings) -> SFTTrainer:
        args = SFTConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            report_to=[],
            **{"use_cpu": True, "bf16": False, "save_strategy": "no", "activation_checkpointing": False} | settings,
        )
        return kind(make_model(), args, train_dataset=learning, processing_class=tokenizer)

    return make


def batch_of(learning, tokenizer):
    return collate([tokenize_dataset(learning, tokenizer)[row] for row in (0, 1)], tokenizer.pad_token_id)


def test_fused_log_probabilities_are_those_of_the_logits(build, learning, tokenizer):
    trainer = build()
    inputs = internals.prepared_inputs(trainer, batch_of(learning, tokenizer))
    with internals.forward_context(trainer), torch.no_grad():
        log_probs, mask = internals.token_log_probs(trainer.model, inputs)
        logits = trainer.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert log_probs.dtype == torch.float32
    losses = -log_probs.sum(dim=1) / mask.sum(dim=1)
    assert torch.allclose(losses, sequence_losses(logits, inputs["labels"]), rtol=1e-5)


def test_a_watched_pass_is_the_one_that_the_loss_is_of(build, learning, tokenizer):
    trainer = build()
    inputs = internals.prepared_inputs(trainer, batch_of(learning, tokenizer))
    hooks = len(trainer.model._forward_hooks)
    with internals.watched_pass(trainer.model) as seen:
        loss = trainer.compute_loss(trainer.model, inputs)
    assert loss.item() == pytest.approx((-seen.log_probs.sum() / seen.mask.sum()).item(), rel=1e-5)
    assert seen.hidden_states.shape == (*inputs["input_ids"].shape, 32)
    assert len(trainer.model._forward_hooks) == hooks


@pytest.mark.parametrize("adapter", [False, True])
def test_positions_that_do_not_count_are_left_out_of_an_evaluation_pass(build, learning, tokenizer, adapter):
    trainer = build()
    model = get_peft_model(trainer.model, LoraConfig(target_modules=["q_proj"])) if adapter else trainer.model
    model.eval()
    inputs = internals.prepared_inputs(trainer, batch_of(learning, tokenizer))
    given, counts = dict(inputs), int((inputs["labels"][:, 1:] != -100).sum())
    expected = trainer.compute_loss(model, dict(inputs))
    measured = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    with internals.watched_pass(model) as seen, internals.counted_positions(model, inputs) as counted:
        loss = trainer.compute_loss(model, counted)
    assert seen.mask.shape == (1, counts)
    assert 0 < counts < inputs["labels"][:, 1:].numel()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert {name: values[-1] for name, values in trainer._metrics["eval"].items()} == pytest.approx(measured, rel=1e-6)
    assert inputs.keys() == given.keys()
    # The model is as before.
    assert trainer.compute_loss(model, dict(inputs)).item() == expected.item()


def test_a_pass_in_which_nothing_counts_is_left_alone(build, learning, tokenizer):
    model = build().model
    inputs = batch_of(learning, tokenizer)
    inputs["labels"].fill_(-100)
    with internals.counted_positions(model, inputs) as counted:
        assert counted == inputs


def test_the_learning_rate_is_that_of_the_next_update(build):
    trainer = build(learning_rate=1e-3, lr_scheduler_type="constant")
    trainer.train()
    assert internals.learning_rate(trainer) == 1e-3


def test_what_evaluation_passes_measured_is_forgotten(build, learning):
    trainer = build()
    trainer.model.eval()
    trainer.compute_loss(
        trainer.model, internals.prepared_inputs(trainer, batch_of(learning, trainer.processing_class))
    )
    assert trainer._metrics["eval"]
    internals.forget_evaluation(trainer)
    assert not trainer._metrics["eval"]


def test_trainers_are_silent_and_have_a_name(build, monkeypatch):
    sent = []
    monkeypatch.setattr(SFTTrainer, "_send_telemetry", sent.append)
    paper = {"title": "Forgetting", "id": "1", "citation": "@book{}"}

    @internals.without_telemetry
    class Quiet(SFTTrainer):
        def __init__(self, *positional, **keywords):
            internals.present_as(self, "Quiet", paper, ["tag"])
            super().__init__(*positional, **keywords)

    trainer = build(Quiet)
    assert sent == []
    trainer.create_model_card()
    card = Path(trainer.args.output_dir, "README.md").read_text()
    assert "Quiet" in card
    assert "tag" in card
    assert "@book{}" in card


def test_state_is_in_a_checkpoint_before_it_counts_as_complete(build, tmp_path):
    @internals.with_state_in_checkpoints
    class Stateful(SFTTrainer):
        def save_beside_optimizer(self, checkpoint: Path) -> None:
            assert not (checkpoint / "trainer_state.json").exists()
            (checkpoint / "own").write_text(str(self.state.global_step))

        def load_beside_optimizer(self, checkpoint: Path) -> None:
            self.loaded = (checkpoint / "own").read_text()

    build(Stateful, save_strategy="steps", save_steps=1).train()
    again = build(Stateful)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert again.loaded == "1"


def test_a_trainers_wrapping_of_a_model_can_be_undone(build, make_model):
    model = make_model()
    before = model.forward
    with internals.restored_forward(model):
        model.forward = partial(before)
    assert model.forward == before
    trained = build().model
    assert "forward" in vars(trained)
    copied = internals.unwrapped_copy(trained)
    assert "forward" not in vars(copied)
    assert copied.forward.__self__ is copied


def test_own_precision_leaves_autocast_out(build, learning, tokenizer):
    trainer = build(bf16=True)
    trainer.train()
    model = trainer.model
    ids = batch_of(learning, tokenizer)["input_ids"]
    plain = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        with internals.own_precision(model):
            own = model(input_ids=ids).logits
        mixed = model(input_ids=ids).logits
        assert not torch.equal(own, mixed)
        fresh = type(model)(model.config).eval()
        fresh.load_state_dict(plain)
        model.eval()
        with internals.own_precision(model):
            assert torch.equal(model(input_ids=ids).logits, fresh(input_ids=ids).logits)


def test_caches_are_joined_and_padded(make_model):
    model = make_model().eval()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    parts = (ids, ids[:1], ids[1:])
    both, first, second = (getattr(model(input_ids=part, use_cache=True), internals.CACHE) for part in parts)
    assert internals.rows_can_join(first)
    assert internals.rows_can_leave(first)
    internals.join_caches(first, second)
    for joined, whole in zip(first.layers, both.layers, strict=True):
        assert torch.allclose(joined.keys, whole.keys, atol=1e-6)
        assert torch.allclose(joined.values, whole.values, atol=1e-6)
    internals.pad_cache(first, 2)
    assert first.layers[0].keys.shape[-2] == 5
    assert not first.layers[0].keys[..., :2, :].any()
    internals.pad_cache(first, -2)
    assert torch.allclose(first.layers[0].keys, both.layers[0].keys, atol=1e-6)


def test_sliding_windows_are_not_joined():
    cache = DynamicCache(config=MistralConfig(sliding_window=4, num_hidden_layers=2))
    assert not internals.rows_can_join(cache)
    assert not internals.rows_can_join(None)
    assert not internals.rows_can_leave(None)


def test_templates_that_mark_the_assistant_are_known():
    assert internals.marks_assistant("{% generation %}x{% endgeneration %}")
    assert not internals.marks_assistant("{{ messages }}")
