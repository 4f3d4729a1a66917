"""Scoring and Fisher estimation on bad input: an error that names what is wrong, never a wrong number."""

import gc
import logging
from collections.abc import Callable

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.config import ConfidenceConfig, PosteriorConfig
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.memory import MemoryEstimate
from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.fisher import estimate_fisher
from graceful_forgetting.runtime.fingerprint import fingerprint_model

CONTEXT = 12


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=31,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
        )
    )


def posterior_of(model: PreTrainedModel) -> LearningPosterior:
    mean = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
    precision = {name: torch.ones_like(p) for name, p in mean.items()}
    return LearningPosterior(mean, precision, {"model": fingerprint_model(model)})


def row(*ids: int) -> dict[str, list[int]]:
    return {"input_ids": list(ids), "labels": [-100, *ids[1:]]}


GOOD = [row(1, 2, 3), row(4, 5, 6, 7)]
SILENT = {"input_ids": [4, 5, 6], "labels": [4, -100, -100]}


def score(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> Dataset:
    return score_confidence(
        model, Dataset.from_list(rows), posterior_of(model), ConfidenceConfig(scorer="lwf", batch_size=2)
    )


def fisher(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return estimate_fisher(model, Dataset.from_list(rows), PosteriorConfig(batch_size=2))


STAGES = {"self_knowledge": score, "learning": fisher}


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> tuple[str, Callable]:
    return request.param, STAGES[request.param]


def test_row_longer_than_the_context_is_named(model: LlamaForCausalLM, stage: tuple[str, Callable]) -> None:
    argument, run = stage
    run(model, [*GOOD, row(*range(1, CONTEXT + 1))])
    with pytest.raises(ValueError, match=rf"{argument}: row 2 has {CONTEXT + 1} tokens.* context of {CONTEXT}"):
        run(model, [*GOOD, row(*range(1, CONTEXT + 2))])


@pytest.mark.parametrize("column", ["seq_lengths", "position_ids"])
def test_packed_rows_are_refused(model: LlamaForCausalLM, stage: tuple[str, Callable], column: str) -> None:
    argument, run = stage
    with pytest.raises(ValueError, match=f"{argument} is packed .*{column}"):
        run(model, [{**good, column: [0, 1]} for good in GOOD])


@pytest.mark.parametrize("token", [31, -1])
def test_token_outside_the_vocabulary_is_named(
    model: LlamaForCausalLM, stage: tuple[str, Callable], token: int
) -> None:
    argument, run = stage
    with pytest.raises(ValueError, match=f"{argument}: row 1 .*0 to 30"):
        run(model, [GOOD[0], row(1, token, 3)])


def test_labels_of_another_length_are_named(model: LlamaForCausalLM, stage: tuple[str, Callable]) -> None:
    argument, run = stage
    with pytest.raises(ValueError, match=f"{argument}: row 1 has 3 input_ids but 2 labels"):
        run(model, [GOOD[0], {"input_ids": [1, 2, 3], "labels": [1, 2]}])


def test_no_counted_token_anywhere_is_an_error(model: LlamaForCausalLM, stage: tuple[str, Callable]) -> None:
    argument, run = stage
    with pytest.raises(ValueError, match=f"{argument}: no row has a token that counts"):
        run(model, [SILENT, SILENT])


def test_rows_without_counted_tokens_get_null_scores_and_a_warning(
    model: LlamaForCausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        scored = score(model, [GOOD[0], SILENT, GOOD[1]])
    assert "1 of 3 rows" in caplog.text
    for column in ("forgetting_confidence", "confidence_linear", "confidence_quadratic", "loss"):
        assert scored[1][column] is None
        assert scored[0][column] is not None
    assert scored["forgetting_confidence"][2] == score(model, GOOD)["forgetting_confidence"][1]


def test_zero_gradient_has_no_crossover(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    mean = {"model.norm.weight": torch.ones(16) + 0.1}
    posterior = LearningPosterior(mean, {"model.norm.weight": torch.ones(16)}, {"model": fingerprint_model(model)})
    scored = score_confidence(model, Dataset.from_list(GOOD), posterior, ConfidenceConfig(scorer="lwf"))
    assert scored["step_size_crossover"][:] == [None, None]
    assert scored["confidence_quadratic"][:] == [0.0, 0.0]
    assert scored["forgetting_confidence"][0] == pytest.approx(0.5 * 16 * 0.01, rel=1e-5)
    with pytest.raises(ValueError, match=r"step_size_rule='crossover': no sample .*use step_size_rule='fixed'"):
        score_confidence(
            model, Dataset.from_list(GOOD), posterior, ConfidenceConfig(scorer="lwf", step_size_rule="crossover")
        )


def test_a_reference_run_that_changed_nothing_has_no_crossover_to_step_to(model: LlamaForCausalLM) -> None:
    posterior = posterior_of(model)
    unmoved = LearningPosterior(dict(model.named_parameters()), posterior.precision, posterior.metadata)
    scored = score_confidence(model, Dataset.from_list(GOOD), unmoved, ConfidenceConfig(scorer="lwf"))
    assert scored["step_size_crossover"][:] == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"step_size_rule='crossover': the median crossover .* is 0, .*'fixed'"):
        score_confidence(
            model, Dataset.from_list(GOOD), unmoved, ConfidenceConfig(scorer="lwf", step_size_rule="crossover")
        )


def test_non_finite_gradient_names_the_row(model: LlamaForCausalLM, caplog: pytest.LogCaptureFixture) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = 3e38  # overflows inside the norm
    rows = Dataset.from_list([*GOOD, row(8, 9, 10)])
    # All in the batch that the rules are checked on: the row is at fault, not the rules.
    with pytest.raises(FloatingPointError, match="row 2"), caplog.at_level(logging.WARNING):
        score_confidence(model, rows, posterior_of(model), ConfidenceConfig(scorer="lwf", batch_size=4))
    assert "slow exact path" not in caplog.text
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_learning_product_that_is_not_finite_is_named_with_its_parameter(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = 3e38
    rows, config = Dataset.from_list([*GOOD, row(8, 9, 10)]), ConfidenceConfig(scorer="gradient_cosine", batch_size=4)
    with pytest.raises(FloatingPointError, match=r"self_knowledge: the gradient of row 2 is not finite in model\."):
        score_confidence(model, rows, None, config, learning=Dataset.from_list(GOOD))


def test_pairwise_conflict_names_a_learning_row_that_is_not_finite(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = 3e38
    config = ConfidenceConfig(scorer="pairwise_conflict", batch_size=4)
    bad = Dataset.from_list([*GOOD, row(8, 9, 10)])
    with pytest.raises(FloatingPointError, match="learning: the gradient of row 2 is not finite"):
        score_confidence(model, Dataset.from_list(GOOD), None, config, learning=bad)
    with pytest.raises(FloatingPointError, match="self_knowledge: the gradient of row 2"):
        score_confidence(model, bad, None, config, learning=Dataset.from_list(GOOD))


def test_pairwise_conflict_needs_more_than_the_output_layer(model: LlamaForCausalLM) -> None:
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    rows, config = Dataset.from_list(GOOD), ConfidenceConfig(scorer="pairwise_conflict")
    with pytest.raises(ValueError, match="none of them requires a gradient; train more of the model"):
        score_confidence(model, rows, None, config, learning=rows)


def test_pairwise_conflict_counts_the_learning_gradients_that_it_holds(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ConfidenceConfig(scorer="pairwise_conflict")
    rows, many = Dataset.from_list(GOOD), Dataset.from_list(GOOD * 1000)
    monkeypatch.setattr("graceful_forgetting.gradients.memory.available_bytes", lambda _: 2_000_000)
    score_confidence(model, rows, None, config, learning=rows)
    with pytest.raises(ValueError, match="scoring does not fit"):
        score_confidence(model, rows, None, config, learning=many)


def test_non_finite_fisher_names_the_row(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = float("nan")
    with pytest.raises(FloatingPointError, match="gradient of row 2 is not finite"):
        fisher(model, [*GOOD, row(8, 9, 10)])


def test_precision_that_was_spoilt_after_loading_is_refused(model: LlamaForCausalLM) -> None:
    posterior = posterior_of(model)
    posterior.precision["lm_head.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"precision of lm_head\.weight is not finite"):
        score_confidence(model, Dataset.from_list(GOOD), posterior, ConfidenceConfig(scorer="lwf"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_mean_alone_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"mean of weight is not finite"):
        LearningPosterior({"weight": torch.tensor([0.0, value])}, {})


def test_precision_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision of weight has negative entries"):
        LearningPosterior({"weight": torch.zeros(2)}, {"weight": torch.tensor([1.0, -1e-9])})


@pytest.mark.parametrize(("dtype", "copies"), [(torch.float32, 0), (torch.bfloat16, 2)])
def test_announced_memory_of_two_losses_counts_a_copy_of_the_weights_only_where_one_is_made(
    model: LlamaForCausalLM, dtype: torch.dtype, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes a parameter: those of θ*_L, which the float32 tensors of a posterior on the CPU serve for."""
    found: list[MemoryEstimate] = []
    monkeypatch.setattr(MemoryEstimate, "require_fit", lambda self, *_: found.append(self))
    model = model.to(dtype)
    config = ConfidenceConfig(scorer="interference")
    score_confidence(model, Dataset.from_list(GOOD), posterior_of(model), config)
    assert [estimate.copies for estimate in found] == [copies * model.num_parameters()]


def test_model_with_non_finite_weights_is_refused_by_parameter(model: LlamaForCausalLM) -> None:
    posterior = posterior_of(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    posterior.metadata["model"] = fingerprint_model(model)
    with pytest.raises(ValueError, match=r"model: lm_head\.weight is not finite"):
        score_confidence(model, Dataset.from_list(GOOD), posterior, ConfidenceConfig(scorer="lwf"))


def test_posterior_of_another_model_is_refused(model: LlamaForCausalLM) -> None:
    posterior = posterior_of(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="contents of the weights"):
        score_confidence(model, Dataset.from_list(GOOD), posterior, ConfidenceConfig(scorer="lwf"))


def test_wrong_type_and_text_without_a_tokenizer_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(TypeError, match=r"self_knowledge must be a datasets\.Dataset, not list"):
        score_confidence(model, GOOD, posterior_of(model), ConfidenceConfig(scorer="lwf"))
    text = Dataset.from_list([{"prompt": "a", "completion": "b"}])
    with pytest.raises(ValueError, match="self_knowledge is text, and processing_class is None"):
        score_confidence(model, text, posterior_of(model), ConfidenceConfig(scorer="lwf"))


def test_unknown_and_unequal_parameter_names_are_refused(model: LlamaForCausalLM) -> None:
    rows, weights = Dataset.from_list(GOOD), {"lm_head.weight": torch.ones(31, 16)}
    with pytest.raises(ValueError, match="must name the same parameters"):
        oracle_confidence_terms(model, rows, weights, {})
    with pytest.raises(ValueError, match="no parameter head"):
        oracle_confidence_terms(model, rows, {"head": torch.ones(2)}, {"head": torch.ones(2)})
    with pytest.raises(ValueError, match="no parameter head"), PerSampleEngine(model, ["head"]):
        pytest.fail("the block must not be entered")


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")
def test_virtual_tokens_are_refused(model: LlamaForCausalLM) -> None:
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    with pytest.raises(ValueError, match="virtual tokens"):
        fisher(get_peft_model(model, config), GOOD)


def test_an_exception_inside_the_pass_leaves_the_model_as_it_was(model: LlamaForCausalLM) -> None:
    model.train()

    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    handle = model.model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        fisher(model, GOOD)
    handle.remove()
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_tensor_outlives_its_batch(model: LlamaForCausalLM) -> None:
    parameters = dict(model.named_parameters())
    weights = {name: torch.ones_like(p) for name, p in parameters.items()}
    batch = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]]),
        "attention_mask": torch.ones(2, 3, dtype=torch.long),
        "labels": torch.tensor([[-100, 2, 3], [-100, -100, 6]]),
    }
    terms = ConfidenceTerms(weights, weights, parameters)

    def alive() -> int:
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    with PerSampleEngine(model, weights) as engine:
        engine.run(batch, terms)
        gc.collect()
        gc.disable()
        try:
            before = alive()
            for _ in range(3):
                engine.run(batch, terms)
            assert alive() == before
        finally:
            gc.enable()


def test_non_finite_gradient_names_the_parameter(model: LlamaForCausalLM) -> None:
    """A gradient that is not finite at a finite loss: only the parameters that it reaches are at fault."""

    class Poisoned(torch.autograd.Function):
        @staticmethod
        def forward(_: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("nan")

    seen: list[torch.Tensor] = []

    def poison(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = inputs
        return (Poisoned.apply(hidden) if bool((seen[-1] == 9).any()) else hidden, *rest)

    posterior = posterior_of(model)
    model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.model.layers[0].register_forward_pre_hook(poison)
    rows = Dataset.from_list([*GOOD, row(8, 9, 10)])
    pattern = r"row 2 is not finite in model\.embed_tokens\.weight, at loss 3\.\d+"
    for rule in ("fixed", "line_search"):
        config = ConfidenceConfig(scorer="lwf", batch_size=1, step_size_rule=rule)
        with pytest.raises(FloatingPointError, match="self_knowledge: the gradient of " + pattern):
            score_confidence(model, rows, posterior, config)
    with pytest.raises(FloatingPointError, match="learning: the gradient of " + pattern):
        estimate_fisher(model, rows, PosteriorConfig(batch_size=1))


def test_scorers_that_need_a_posterior_say_so(model: LlamaForCausalLM) -> None:
    rows = Dataset.from_list(GOOD)
    for scorer in ("lwf", "linear", "overlap", "interference"):
        with pytest.raises(ValueError, match=f"posterior is None, and scorer '{scorer}' needs one"):
            score_confidence(model, rows, None, ConfidenceConfig(scorer=scorer))
    part = posterior_of(model).subset(last_blocks=1)
    with pytest.raises(ValueError, match="'interference' needs θ\\*_L whole"):
        score_confidence(model, rows, part, ConfidenceConfig(scorer="interference"))
    whole = posterior_of(model)
    alone = LearningPosterior(whole.mean, {}, whole.metadata)
    for scorer in ("lwf", "linear", "overlap"):
        with pytest.raises(ValueError, match=f"scorer '{scorer}' needs the Fisher information.*with_fisher=True"):
            score_confidence(model, rows, alone, ConfidenceConfig(scorer=scorer))


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (ConfidenceConfig, {"scorer": "fisher"}, "scorer='fisher' is not valid.*lwf, linear"),
        (ConfidenceConfig, {"step_size_rule": "adaptive"}, "step_size_rule='adaptive' is not valid"),
        (ConfidenceConfig, {"scorer": "loss", "step_size_rule": "polyak"}, "takes no gradient step"),
        (ConfidenceConfig, {"scorer": "interference", "step_size_rule": "crossover"}, "takes no gradient step"),
        (ConfidenceConfig, {"weights": "float16"}, "weights='float16' is not valid"),
        (PosteriorConfig, {"parameters": "last_blocks:0"}, "parameters='last_blocks:0'"),
        (PosteriorConfig, {"parameters": "pattern:("}, "regular expression"),
    ],
)
def test_settings_that_cannot_be_are_refused(config: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_several_draws_of_what_draws_nothing_are_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="draws=2 with estimator='exact': only 'sampled' draws labels"):
        estimate_fisher(model, Dataset.from_list(GOOD), PosteriorConfig(estimator="exact"), draws=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameters": "last_blocks:2"}, "parameters='last_blocks:2' is not valid: model.layers has 1 blocks"),
        ({"parameters": "pattern:mpl"}, "parameters='pattern:mpl' matches no parameter"),
        ({"parameters": "merged"}, "is for models with a LoRA adapter"),
    ],
)
def test_coverage_that_leaves_nothing_is_refused(
    model: LlamaForCausalLM, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_fisher(model, Dataset.from_list(GOOD), PosteriorConfig(**settings))


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")
def test_merged_space_refuses_dora(model: LlamaForCausalLM) -> None:
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ValueError, match="does not cover DoRA"):
        estimate_fisher(adapted, Dataset.from_list(GOOD), PosteriorConfig(parameters="merged"))
