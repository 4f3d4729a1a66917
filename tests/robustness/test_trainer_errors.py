"""What `LWFTrainer` and `LWFConfig` refuse, before a model is trained, and what stops a run."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from chat_tokenizers import byte_level, llama3_like
from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer, NonFiniteLossError
from graceful_forgetting.training.preparation import Preparation
from graceful_forgetting.unlearning import step

QUIET = {"bf16": False, "activation_checkpointing": False, "disable_tqdm": True, "save_strategy": "no", "max_steps": 4}


def config(folder, **changes) -> LWFConfig:
    return LWFConfig(output_dir=str(folder), **{**FORMULA, **QUIET, **changes})


@pytest.fixture
def build(tmp_path, make_model, tokenizer, learning, forgetting):
    def make(args=None, **changes) -> LWFTrainer:
        settings = {"train_dataset": learning, "processing_class": tokenizer, "forget_dataset": forgetting}
        return LWFTrainer(make_model(), args or config(tmp_path), **{**settings, **changes})

    return make


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("forget_fraction", 0.0, r"fraction=0.0 .*\(0, 1\]"),
        ("forget_fraction", 1.01, r"fraction=1.01 .*\(0, 1\]"),
        ("forget_count", 0, "count=0 .*at least 1"),
        ("forget_strategy", "best", "forget_strategy='best' .*highest, lowest, random, threshold"),
        ("forget_strategy", "threshold", "needs a threshold, and no other strategy takes one"),
        ("forget_quotas", "{", "not valid JSON"),
        ("unlearn_every", -1, "unlearn_every=-1"),
        (
            "unlearn_objective",
            "ascent",
            "unlearn_objective='ascent' .*bounded_tokens, gradient_ascent, npo",
        ),
        ("unlearn_schedule", "late", "unlearn_schedule='late' .*periodic, early, random, joint"),
        ("unlearn_weight", 0.0, "unlearn_weight=0.0 .*above 0"),
        ("unlearn_retain_weight", -1.0, "unlearn_retain_weight=-1.0 .*0 .off. or more"),
        ("forget_answers", "mine", "forget_answers='mine' .*self_generated, given"),
        ("baseline", "srs", "baseline='srs' .*bss, l2_sp, ewc, afec"),
        ("baseline", "selective_amnesia", "unlearn_objective='uniform', unlearn_schedule='joint'"),
        ("baseline_weight", 1.0, "baseline_weight=1.0 with baseline=None"),
        ("unlearn_learning_rate", 0.0, "unlearn_learning_rate=0.0 .*above 0"),
        ("learning_rate", 0.0, "learning_rate=0.0 leaves the rate of unlearning, .*nothing to follow"),
        ("unlearn_loss_cap", 0.0, "unlearn_loss_cap=0.0 .*above 0"),
        ("guard_margin", -1.0, "guard_margin=-1.0 .*above 0"),
        ("per_device_unlearn_batch_size", 0, "per_device_unlearn_batch_size=0 .*at least 1"),
        ("unlearn_gradient_accumulation_steps", 0, "unlearn_gradient_accumulation_steps=0 .*at least 1"),
        ("confidence_step_size", 0.0, "step_size=0.0 .*above 0"),
        ("confidence_step_size", float("inf"), "step_size=inf .*above 0"),
        ("posterior_estimator", "fisher", "estimator='fisher' .*sampled, empirical, exact"),
        ("confidence_scorer", "fc", "scorer='fc' .*lwf, linear, overlap"),
        ("confidence_step_size_rule", "adam", "step_size_rule='adam' .*fixed, crossover, polyak, line_search"),
        ("posterior_fisher_at", "start", "fisher_at='start' .*reference, base"),
        ("posterior_num_samples", 0, "num_samples=0 .*at least 1"),
        ("elicitation_temperature", -0.5, "temperature=-0.5 .*at least 0"),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path, field, value, expected):
    with pytest.raises(ValueError, match=expected):
        config(tmp_path, **{field: value})


def test_two_settings_that_both_decide_how_many(tmp_path):
    with pytest.raises(ValueError, match=r"forget_fraction=0\.5, forget_count=3 are set together"):
        config(tmp_path, forget_fraction=0.5, forget_count=3)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"baseline": "bss", "label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 with baseline='bss'"),
        ({"baseline": "token_forgetting", "packing": True}, "packing=True cannot be used with baseline"),
        ({"baseline": "token_forgetting", "loss_type": "dft"}, "loss_type='dft' cannot be used with baseline"),
        ({"baseline": "token_forgetting", "posterior_parameters": "last_blocks:1"}, "needs θ.*_L whole"),
        ({"baseline": "afec", "posterior_parameters": "merged"}, "'merged' with baseline='afec'"),
        ({"baseline": "afec", "posterior_fisher_at": "base"}, "posterior_fisher_at='base' with baseline='afec'"),
        (
            {"baseline": "bss", "baseline_options": {"singular_values": 0}},
            "baseline_options: singular_values=0 .*at least 1",
        ),
        (
            {"baseline": "shrink_perturb", "baseline_options": {"shrink": 1.1}},
            r"baseline_options: shrink=1.1 .*\[0, 1\]",
        ),
        (
            {"baseline": "shrink_perturb", "baseline_options": {"noise": -0.1}},
            "baseline_options: noise=-0.1 .*0 or more",
        ),
        ({"baseline": "f_learning", "baseline_options": {"steps": 0}}, "baseline_options: steps=0 .*at least 1"),
        (
            {"baseline": "token_forgetting", "baseline_options": {"positive_share": 1.0}},
            r"baseline_options: positive_share=1.0 .*\(0, 1\)",
        ),
        (
            {"baseline": "bss", "baseline_options": {"steps": 2}},
            "baseline='bss' does not know: it knows singular_values",
        ),
        ({"baseline_options": {"steps": 2}}, "leave baseline_options unset"),
        ({"baseline": "shrink_perturb", "baseline_weight": 1.0}, "has no such number"),
        ({"forget_strategy": "gap", "forget_count": 3}, "forget_count=3 with forget_strategy='gap'"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, settings, expected):
    with pytest.raises(ValueError, match=expected):
        config(tmp_path, **settings)


def test_a_baseline_without_what_it_needs(tmp_path, build):
    with pytest.raises(ValueError, match="baseline='ewc' needs the base model's self-knowledge: pass forget_dataset"):
        build(config(tmp_path, baseline="ewc"), forget_dataset=None)
    adapter = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="'shrink_perturb' changes all weights of the model"):
        build(config(tmp_path, baseline="shrink_perturb"), peft_config=adapter)
    with (
        pytest.warns(FutureWarning, match="compute_loss_func"),
        pytest.raises(ValueError, match="compute_loss_func cannot be used with baseline='l2_sp'"),
    ):
        build(config(tmp_path, baseline="l2_sp"), compute_loss_func=lambda *_, **__: None)


def test_a_baseline_is_not_resumed_from_another_base_model(tmp_path, build, make_model):
    settings = {"baseline": "l2_sp", "unlearn_every": 0}
    build(config(tmp_path, save_strategy="steps", save_steps=2, **settings), forget_dataset=None).train()
    trainer = build(config(tmp_path, **settings), forget_dataset=None)
    with torch.no_grad():
        trainer.model.lm_head.weight.add_(1.0)
    with pytest.raises(ValueError, match="another base model, or without a baseline"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_where_all_is_unlearned_nothing_is_retained(tmp_path, build, forgetting):
    scored = forgetting.add_column("forgetting_confidence", [1.0] * len(forgetting))

    def weights(**changes):
        changes |= {"unlearn_every": 2, "forget_fraction": 1.0, "per_device_unlearn_batch_size": 4}
        trainer = build(config(tmp_path, **changes), forget_dataset=scored)
        trainer.train()
        return trainer.model.state_dict()

    retained, without = weights(unlearn_retain_weight=1.0), weights(unlearn_retain_weight=0.0)
    assert all(torch.equal(weight, without[name]) for name, weight in retained.items())


def test_a_preparation_of_another_type_or_beside_a_forgetting_set(build):
    with pytest.raises(TypeError, match="preparation must be a Preparation, not dict"):
        build(forget_dataset=None, preparation={})
    preparation = Preparation(Dataset.from_dict({}), Dataset.from_dict({}), {})
    with pytest.raises(ValueError, match="both given"):
        build(preparation=preparation)


@pytest.mark.parametrize("weights", [[-1.0] * 16, [0.0] * 16])
def test_weights_that_are_none(tmp_path, build, forgetting, weights):
    scored = forgetting.add_column("forgetting_confidence", [1.0] * 16).add_column("unlearn_weight", weights)
    with pytest.raises(ValueError, match="'unlearn_weight' must hold finite numbers of at least 0"):
        build(config(tmp_path), forget_dataset=scored).train()


def test_args_of_another_class(tmp_path, build):
    with pytest.raises(TypeError, match="args must be an LWFConfig"):
        build(SFTConfig(str(tmp_path), **QUIET))


def test_empty_forgetting_set(build, forgetting):
    with pytest.raises(ValueError, match="forget_dataset has no rows"):
        build(forget_dataset=forgetting.select([]))
    with pytest.raises(ValueError, match="forget_dataset has no rows"):
        build(forget_dataset={})


def test_forgetting_set_of_another_type(build, forgetting):
    with pytest.raises(TypeError, match="not list"):
        build(forget_dataset=list(forgetting))
    with pytest.raises(TypeError, match=r"forget_dataset\['a'\] must be .* not list"):
        build(forget_dataset={"a": list(forgetting)})


def test_wrong_columns_are_listed(build):
    with pytest.raises(ValueError, match=r"needs a column `prompt`.*it has question, forgetting_task"):
        build(forget_dataset=Dataset.from_dict({"question": ["w1"]}))


def test_parts_with_different_columns(build, forgetting):
    with pytest.raises(ValueError, match="must have the same columns"):
        build(forget_dataset={"a": forgetting, "b": forgetting.select_columns(["prompt"])})


def test_fp16(tmp_path):
    with pytest.raises(ValueError, match="fp16=True is not supported"):
        LWFConfig(output_dir=str(tmp_path), fp16=True, use_cpu=False)


def test_tokenizer_without_pad_token_falls_back_to_eos(build, tokenizer):
    tokenizer.pad_token = None
    trainer = build()
    trainer.train()
    assert (trainer.processing_class.pad_token, tokenizer.pad_token) == ("<eos>", None)
    assert trainer.state.global_step == 4


def test_prompt_longer_than_the_context(build, tmp_path):
    args = config(tmp_path, per_device_unlearn_batch_size=1)
    trainer = build(args, forget_dataset=Dataset.from_dict({"prompt": ["w1 " * 70]}))
    with pytest.raises(ValueError, match=r"row 0 .*70.*64"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("settings", "columns", "message"),
    [
        ({"elicitation_max_new_tokens": 63}, [], "^elicitation_max_new_tokens=63 does not fit: the longest prompt"),
        (
            {"elicitation_num_samples_per_prompt": 2, "elicitation_temperature": 1.0},
            ["options"],
            "^elicitation_num_samples_per_prompt=2, and prompts: row 0 has options",
        ),
        ({"posterior_parameters": "pattern:mpl"}, [], "^posterior_parameters='pattern:mpl' matches no parameter"),
        ({"forget_count": 99, "forget_fraction": None}, [], "^forget_count=99 is not valid: it must be from 1 to"),
        (
            {"forget_quotas": {"myths": 0.5}, "forget_fraction": None},
            [],
            "^forget_quotas={'myths': 0.5} names unknown forgetting tasks: myths",
        ),
    ],
    ids=["context", "options", "parameters", "count", "quotas"],
)
def test_errors_of_the_stages_name_settings_as_they_were_typed(build, tmp_path, forgetting, settings, columns, message):
    prompts = forgetting.select_columns(["prompt"])
    for name in columns:
        prompts = prompts.add_column(name, [["w3", "w4"]] * len(prompts))
    with pytest.raises(ValueError, match=message):
        build(
            config(tmp_path, **{"elicitation_max_new_tokens": 8, **settings}), forget_dataset=prompts
        ).prepare_unlearning()


def test_answer_longer_than_the_context_is_refused_before_the_reference_run(build, tmp_path):
    trainer = build(forget_dataset=Dataset.from_dict({"prompt": ["w1"], "completion": [" w2" * 70]}))
    with pytest.raises(ValueError, match=r"forget_dataset.*row 0.*64"):
        trainer.train()
    assert not (tmp_path / "preparation" / "plain").exists()


def test_non_finite_loss_stops_names_the_step_and_keeps_the_checkpoint(tmp_path, build, forgetting):
    scored = forgetting.add_column("forgetting_confidence", [1.0] * len(forgetting))
    trainer = build(config(tmp_path, save_strategy="steps", save_steps=1, unlearn_every=3), forget_dataset=scored)
    original = trainer.compute_loss

    def broken(*args, **kwargs):
        loss = original(*args, **kwargs)
        return loss * float("nan") if trainer.state.global_step == 2 else loss

    trainer.compute_loss = broken
    with pytest.raises(NonFiniteLossError, match="learning loss is nan at learning update 3"):
        trainer.train()
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    resumed = build(config(tmp_path, save_strategy="no", unlearn_every=3), forget_dataset=scored)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4


def test_non_finite_unlearning_loss(tmp_path, build, forgetting, monkeypatch):
    scored = forgetting.add_column("forgetting_confidence", [1.0] * len(forgetting))
    trainer = build(config(tmp_path, unlearn_every=2), forget_dataset=scored)
    original = step.unlearning_batch

    def broken(*args):
        batch, retained = original(*args)
        return replace(batch, log_probs=batch.log_probs * float("nan")), retained

    monkeypatch.setattr(step, "unlearning_batch", broken)
    with pytest.raises(
        NonFiniteLossError, match=r"unlearning loss is nan before learning update 3 \(unlearning update 1"
    ):
        trainer.train()


def test_checkpoint_of_a_plain_run_is_not_resumed_with_unlearning(tmp_path, build):
    build(config(tmp_path, save_strategy="steps", save_steps=2), forget_dataset=None).train()
    trainer = build(config(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no unlearning state"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
def test_rows_whose_answers_are_trained_from_elsewhere_are_refused(argument, tmp_path, make_model):
    """As in a run, where TRL itself warns of a first row and goes on."""
    tokenizer = byte_level()
    good = [{"prompt": "The capital of France is", "completion": " Paris"}] * 2
    bad = [*good, {"prompt": "The capital of Italy is ", "completion": "Rome"}]
    data = {"train_dataset": Dataset.from_list(good), "eval_dataset": {"own": Dataset.from_list(good)}}
    data[argument] = Dataset.from_list(bad) if argument == "train_dataset" else {"own": Dataset.from_list(bad)}
    place = argument if argument == "train_dataset" else r"eval_dataset\['own'\]"
    with pytest.raises(ValueError, match=rf"{place}: row 2 cannot be learned: prompt ends in ' '"):
        LWFTrainer(
            make_model(vocab_size=len(tokenizer)),
            config(tmp_path),
            processing_class=tokenizer,
            forget_dataset=Dataset.from_list([{"prompt": "The capital of Peru is"}]),
            **data,
        )


def test_turns_of_the_user_in_a_completion_are_refused(tmp_path, make_model):
    tokenizer = llama3_like()
    turns = [{"role": role, "content": text} for role, text in (("assistant", "Lima"), ("user", "Rome?"))]
    row = {
        "prompt": [{"role": "user", "content": "Peru?"}],
        "completion": [*turns, {"role": "assistant", "content": "no"}],
    }
    with pytest.raises(ValueError, match="row 0 cannot be learned: completion, turn 2 has role='user'"):
        LWFTrainer(
            make_model(vocab_size=len(tokenizer)),
            config(tmp_path),
            train_dataset=Dataset.from_list([row]),
            processing_class=tokenizer,
            forget_dataset=Dataset.from_list([{"prompt": row["prompt"]}]),
        )


CALL = [{"function": {"name": "f", "arguments": '{"x": 1}'}}]
NOT_SHOWN = {
    "tools": {"tools": '[{"type": "function", "function": {"name": "f"}}]'},
    "tool_calls": {"completion": [{"role": "assistant", "content": "b", "tool_calls": CALL}]},
    "reasoning_content": {"completion": [{"role": "assistant", "content": "b", "reasoning_content": "so"}]},
    r"chat_template_kwargs\['enable_thinking'\]": {"chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.mark.parametrize("left_out", NOT_SHOWN)
@pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset", "forget_dataset", "forgetting prompts"])
def test_what_a_template_leaves_out_is_refused_in_every_data_set(argument, left_out, tmp_path, make_model):
    tokenizer = llama3_like()
    plain = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    row = {**plain, **NOT_SHOWN[left_out]}
    data = {name: [plain] for name in ("train_dataset", "eval_dataset", "forget_dataset")}
    if argument == "forgetting prompts":
        if "completion" in NOT_SHOWN[left_out]:
            pytest.skip("prompts have no completion")
        data["forget_dataset"], argument = [{**row, "completion": None}], "forget_dataset"
    else:
        data[argument] = [row]
    sets = {name: Dataset.from_list(rows) for name, rows in data.items()}
    if data["forget_dataset"][0]["completion"] is None:
        sets["forget_dataset"] = sets["forget_dataset"].remove_columns("completion")
    with pytest.raises(ValueError, match=rf"^{argument}: row 0 has {left_out}, and the chat template leaves them out"):
        LWFTrainer(
            make_model(vocab_size=len(tokenizer)),
            config(tmp_path, elicitation_max_new_tokens=4, per_device_unlearn_batch_size=1),
            processing_class=tokenizer,
            **sets,
        ).prepare_unlearning()


def test_rows_that_max_length_drops_are_counted(build, tmp_path, learning, caplog):
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        trainer = build(config(tmp_path, max_length=2), eval_dataset=learning)
    assert len(trainer.train_dataset) == 6
    for name in ("train", "eval"):
        assert f"max_length=2 cuts off all that is learned of 18 of the 24 rows of the {name} data set" in caplog.text


@pytest.mark.parametrize("unlearns", [True, False])
def test_a_max_length_that_leaves_no_row_is_refused(unlearns, build, tmp_path, forgetting):
    with pytest.raises(ValueError, match=r"max_length=1 cuts off .* of 24 of the 24 rows .*: none is left. Raise it"):
        build(config(tmp_path, max_length=1), forget_dataset=forgetting if unlearns else None)
