"""`LWFTrainer` with prompts, answers or scores as forgetting set: what it does before the first learning update."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from datasets import load_from_disk
from peft import LoraConfig

from formula import FORMULA
from graceful_forgetting import LearningPosterior, LWFConfig, LWFTrainer, score_confidence
from graceful_forgetting.gradients.oracle import oracle_fisher
from graceful_forgetting.posterior.fisher import estimate_fisher
from graceful_forgetting.runtime.fingerprint import fingerprint_model


def config(folder: Path, **changes) -> LWFConfig:
    settings = FORMULA | {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "unlearn_every": 2,
        "forget_fraction": 0.5,
        "per_device_unlearn_batch_size": 4,
        "elicitation_max_new_tokens": 5,
        "save_strategy": "no",
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    return LWFConfig(output_dir=str(folder), **{**settings, **changes})


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_prompts_only_runs_every_stage(tmp_path, make_model, tokenizer, learning, forgetting, lora):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting.select_columns(["prompt"]),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
    )
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    fingerprint = fingerprint_model(trainer.model)
    preparation = trainer.prepare_unlearning()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was not restored"

    assert len(preparation.selected) == round(0.5 * len(preparation.scored))
    assert (
        min(preparation.selected["forgetting_confidence"])
        >= sorted(preparation.scored["forgetting_confidence"])[-len(preparation.selected)]
    )
    folder = tmp_path / "preparation"
    assert load_from_disk(str(folder / "scores" / "rows")).column_names == preparation.scored.column_names
    assert json.loads((folder / "selection" / "selection.json").read_text())["chosen"] == len(preparation.selected)
    assert (folder / "plain" / ("adapter_config.json" if lora else "config.json")).is_file()

    # The posterior is that of the reference run, for this base model, and its mean is not where the model stands.
    posterior = LearningPosterior.from_pretrained(folder / "posterior" / "posterior", model=trainer.model)
    assert posterior.metadata["model"] == fingerprint
    assert any(not torch.equal(mean, before[name].float()) for name, mean in posterior.mean.items() if name in before)
    rescored = score_confidence(trainer.model, preparation.scored, posterior, trainer.args.confidence_config())
    assert rescored["forgetting_confidence"] == preparation.scored["forgetting_confidence"]

    trainer.train()
    assert trainer.preparation is preparation, "train() prepared a second time"
    assert trainer.unlearning_summary()["updates"] == 2


@pytest.mark.parametrize("fisher_at", ["reference", "base"])
def test_posterior_is_that_of_the_reference_run(tmp_path, make_model, tokenizer, learning, forgetting, fisher_at):
    args = config(tmp_path, posterior_estimator="empirical", posterior_fisher_at=fisher_at)
    trainer = LWFTrainer(
        make_model(), args, train_dataset=learning, processing_class=tokenizer, forget_dataset=forgetting
    )
    posterior = trainer.prepare_unlearning().posterior
    reference = type(trainer.model).from_pretrained(tmp_path / "preparation" / "plain")
    for name, parameter in reference.named_parameters():
        assert torch.equal(posterior.mean[name], parameter), name
    expected = oracle_fisher(reference if fisher_at == "reference" else make_model(), trainer.train_dataset)
    for name, precision in posterior.precision.items():
        torch.testing.assert_close(precision, expected[name], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("space", ["trainable", "merged"])
def test_fisher_at_base_does_not_depend_on_the_reference_run(
    tmp_path, make_model, tokenizer, learning, forgetting, space
):
    def posterior(fraction):
        trainer = LWFTrainer(
            make_model(),
            config(
                tmp_path / str(fraction),
                posterior_fisher_at="base",
                posterior_parameters=space,
                reference_fraction=fraction,
            ),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=forgetting,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        )
        found = trainer.prepare_unlearning().posterior
        rows = trainer.train_dataset.select_columns(["input_ids", "labels"])
        expected = estimate_fisher(trainer.model, rows, trainer.args.posterior_config())
        return found, expected

    (early, expected), (whole, _) = posterior(0.34), posterior(1.0)
    assert early.metadata["reference_fraction"] == 0.34
    for name, values in expected.items():
        assert torch.equal(early.precision[name], values)
        assert torch.equal(whole.precision[name], values)
    assert any(not torch.equal(early.mean[name], whole.mean[name]) for name in expected)


def test_given_answers_are_scored_and_not_elicited(tmp_path, make_model, tokenizer, learning, forgetting):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting,
    )
    scored = trainer.prepare_unlearning().scored
    assert scored["completion"] == forgetting["completion"]
    assert "finish_reason" not in scored.column_names


def test_whose_answers_are_unlearned_can_be_chosen(tmp_path, make_model, tokenizer, learning, forgetting):
    def completions(answers, rows):
        trainer = LWFTrainer(
            make_model(),
            config(tmp_path / str(answers), forget_answers=answers, confidence_scorer="loss"),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=rows,
        )
        return trainer.prepare_unlearning().scored["completion"][:]

    own = completions(None, forgetting.select_columns(["prompt"]))
    assert completions("self_generated", forgetting) == own
    assert completions("given", forgetting) == completions(None, forgetting) == forgetting["completion"][:] != own
    with pytest.raises(ValueError, match="forget_answers='given' needs answers in forget_dataset"):
        completions("given", forgetting.select_columns(["prompt"]))
    with pytest.raises(ValueError, match="forget_dataset needs a column `prompt`"):
        completions("self_generated", forgetting.select_columns(["completion"]))


def test_gradient_cosine_needs_no_reference_run(tmp_path, make_model, tokenizer, learning, forgetting):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path, confidence_scorer="gradient_cosine"),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting,
    )
    trainer.train()
    scores = trainer.preparation.scored["forgetting_confidence"][:]
    assert all(-1 <= score <= 1 for score in scores)
    assert len(set(scores)) > 8
    assert not (tmp_path / "preparation" / "plain").exists()
    assert trainer.unlearning_summary()["updates"] == 2


@pytest.mark.parametrize("fisher_at", ["reference", "base"])
def test_a_trainers_mixed_precision_does_not_reach_gradients(
    tmp_path, make_model, tokenizer, learning, forgetting, caplog, fisher_at
):
    """Training in bf16 leaves an autocast on the model; posterior, scores and scores again are of float32."""
    trainer = LWFTrainer(
        make_model(initializer_range=0.2),
        config(
            tmp_path,
            bf16=True,
            use_cpu=True,
            max_steps=4,
            posterior_fisher_at=fisher_at,
        ),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting,
    )
    base = make_model(initializer_range=0.2)
    scored = trainer.prepare_unlearning().scored
    posterior = trainer.preparation.posterior
    reference = make_model(initializer_range=0.2)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(posterior.mean[name])
    rows = trainer.train_dataset.select_columns(["input_ids", "labels"])
    expected = estimate_fisher(reference if fisher_at == "reference" else base, rows, trainer.args.posterior_config())
    for name, precision in posterior.precision.items():
        torch.testing.assert_close(precision, expected[name], rtol=1e-3, atol=1e-9)
    again = score_confidence(base, scored, posterior, trainer.args.confidence_config())
    assert again["confidence_quadratic"][:] == pytest.approx(scored["confidence_quadratic"][:], rel=1e-4)
    trainer.train()
    assert "slow exact path" not in caplog.text


@pytest.mark.parametrize("name", ["ewc", "afec", "bss", "f_learning"])
def test_baselines_train_adapters(tmp_path, make_model, tokenizer, learning, forgetting, name):
    def adapted(**settings):
        torch.manual_seed(0)
        trainer = LWFTrainer(
            make_model(),
            config(tmp_path / str(settings.get("baseline")), unlearn_every=0, posterior_num_samples=4, **settings),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=forgetting.add_column("forgetting_confidence", [0.0] * len(forgetting)),
            peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.train()
        return {name: tensor for name, tensor in trainer.model.state_dict().items() if "lora_" in name}

    options = {"steps": 2} if name == "f_learning" else None
    plain, with_baseline = adapted(), adapted(baseline=name, baseline_weight=10.0, baseline_options=options)
    assert any(not torch.equal(plain[key], with_baseline[key]) for key in plain)


def test_dict_of_forgetting_tasks_with_quotas(tmp_path, make_model, tokenizer, learning, forgetting):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path, forget_fraction=None, forget_quotas={"first": 3, "second": 0.25}),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset={"first": forgetting.select(range(8)), "second": forgetting.select(range(8, 16))},
    )
    chosen = trainer.prepare_unlearning().selected["forgetting_task"]
    assert (chosen.count("first"), chosen.count("second")) == (3, 2)


def test_preparation_does_not_shift_the_learning_run(tmp_path, make_model, tokenizer, learning, forgetting):
    """A run that never reaches an unlearning update equals one without unlearning, preparation or not."""
    weights = []
    for forget in (None, forgetting.select_columns(["prompt"])):
        trainer = LWFTrainer(
            make_model(attention_dropout=0.2),
            config(tmp_path / str(forget is None), unlearn_every=100),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=forget,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name


@pytest.mark.parametrize("scorer", ["loss", "interference"])
def test_a_scorer_does_the_stages_that_it_needs(tmp_path, make_model, tokenizer, learning, forgetting, scorer):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path, confidence_scorer=scorer),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting,
    )
    preparation = trainer.prepare_unlearning()
    needs_reference = scorer == "interference"
    assert (preparation.posterior is not None) == needs_reference
    assert (tmp_path / "preparation" / "plain").exists() == needs_reference
    assert (tmp_path / "preparation" / "posterior").exists() == needs_reference
    scored = preparation.scored
    for score, loss, after in zip(
        scored["forgetting_confidence"], scored["loss"], scored["reference_loss"], strict=True
    ):
        assert score == (after - loss if needs_reference else loss)
    assert not any((tmp_path / "preparation" / "work").rglob("*.safetensors"))
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 2


def test_merged_adapter_space_with_its_own_step_sizes(tmp_path, make_model, tokenizer, learning, forgetting):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path, posterior_parameters="merged", confidence_step_size_rule="polyak"),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    preparation = trainer.prepare_unlearning()
    assert len(preparation.posterior.mean) == 4
    assert all(name.endswith("base_layer.weight") for name in preparation.posterior.mean)
    assert len(set(preparation.scored["step_size"])) > 1
    assert min(preparation.scored["confidence_constant"]) > 0, "the merged adapter has moved the dense weights"


def test_the_crossover_is_the_median_of_the_pool(tmp_path, make_model, tokenizer, learning, forgetting):
    trainer = LWFTrainer(
        make_model(),
        config(tmp_path, confidence_step_size_rule="crossover", confidence_step_size=2.0),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting,
    )
    scored = trainer.prepare_unlearning().scored
    (step,) = set(scored["step_size"])
    assert step == 2.0 * median(scored["step_size_crossover"])


def test_a_preparation_killed_while_scoring_goes_on_from_its_shards(
    tmp_path, make_model, tokenizer, learning, forgetting, monkeypatch
):
    from graceful_forgetting.confidence import shards
    from graceful_forgetting.confidence.forgetting_terms import ForgettingTerms

    def run(folder, limit=None):
        rows, measure = [], ForgettingTerms.measure

        def counted(self, indices):
            if limit is not None and len(rows) >= limit:
                raise KeyboardInterrupt
            rows.extend(indices)
            return measure(self, indices)

        with monkeypatch.context() as patch:
            patch.setattr(shards, "SHARD_SIZE", 1)
            patch.setattr(ForgettingTerms, "measure", counted)
            trainer = LWFTrainer(
                make_model(),
                config(folder, confidence_batch_size=1),
                train_dataset=learning,
                processing_class=tokenizer,
                forget_dataset=forgetting,
            )
            return rows, trainer.prepare_unlearning().scored

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", limit=10)
    # The first, middle and last of the 16 were the pilot; then came numbers 2 to 8, which the middle one follows.
    rows, resumed = run(tmp_path / "killed")
    assert len(rows) == 16 - 9
    _, whole = run(tmp_path / "whole")
    assert resumed.to_dict() == whole.to_dict()
