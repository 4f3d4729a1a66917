"""Every scorer and step-size rule against plain autograd and plain forward passes."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from exact import exact
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.confidence.forgetting_terms import GRID
from graceful_forgetting.confidence.learning_gradient import LearningProducts
from graceful_forgetting.confidence.losses import MOST_LEARNING_ROWS, Losses, ReferenceLosses, learning_loss
from graceful_forgetting.confidence.pairwise import directions, parameters_before_output
from graceful_forgetting.confidence.scorer import Measured, Scorer
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.config import ConfidenceConfig, PosteriorConfig
from graceful_forgetting.gradients.oracle import oracle_gradients
from graceful_forgetting.lab.bench.architectures import build, random_rows
from graceful_forgetting.posterior import LearningPosterior, estimate_posterior
from graceful_forgetting.runtime.fingerprint import fingerprint_model

pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

COLUMNS = (
    "forgetting_confidence",
    "confidence_constant",
    "confidence_linear",
    "confidence_quadratic",
    "loss",
    "reference_loss",
    "step_size",
    "step_size_crossover",
)
MakeModel = Callable[..., LlamaForCausalLM]


@pytest.fixture
def rows() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for prompt, completion in [(2, 5), (1, 9), (4, 1), (3, 3), (6, 4)]:
        ids = torch.randint(4, 64, (prompt + completion,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(rows)


def perturbed(model: PreTrainedModel, seed: int, scale: float = 0.02) -> PreTrainedModel:
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return other


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> PreTrainedModel:
    return perturbed(make_model(tie_word_embeddings=request.param), 5, 0.1)


def test_the_loss_of_learning_is_the_mean_over_rows_and_leaves_the_model_as_it_was(
    model: PreTrainedModel, rows: Dataset
) -> None:
    model.train()
    expected = sum(loss_of(model, row).item() for row in rows) / len(rows)
    model.train()
    for batch_size in (1, 2, 8):
        assert learning_loss(model, rows, batch_size) == pytest.approx(expected, rel=1e-5)
    assert model.training


def test_of_many_learning_rows_evenly_spaced_ones_are_read(model: PreTrainedModel, rows: Dataset) -> None:
    read = [rows[0]] * MOST_LEARNING_ROWS
    twice = [row for kept in read for row in (kept, rows[1])]
    assert learning_loss(model, Dataset.from_list(twice), 64) == pytest.approx(loss_of(model, rows[0]).item(), rel=1e-5)


@pytest.fixture
def posterior(model: PreTrainedModel, rows: Dataset) -> LearningPosterior:
    return estimate_posterior(model, perturbed(model, 6), rows)


def loss_of(model: PreTrainedModel, row: dict[str, list[int]]) -> Tensor:
    return model.eval()(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss


def terms_of(
    model: PreTrainedModel, posterior: LearningPosterior, row: dict[str, list[int]]
) -> tuple[float, float, float, float, float]:
    """L, ⟨FΔ, g⟩, Σ F g², ‖g‖² by autograd, in float64; and Σ |FΔ g|, of which ⟨FΔ, g⟩ is what does not cancel."""
    model = exact(model)
    loss = loss_of(model, row)
    named = dict(model.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    product = square = norm = summed = 0.0
    for name, mean in posterior.mean.items():
        g, f = gradients[name].double(), posterior.precision[name].double()
        parts = f * (named[name].detach().double() - mean.double()) * g
        product += float(parts.sum())
        summed += float(parts.abs().sum())
        square += float((f * g**2).sum())
        norm += float((g**2).sum())
    return float(loss.detach()), product, square, norm, summed


@pytest.mark.parametrize("rule", ["fixed", "crossover", "polyak"])
def test_gradient_scorers_follow_their_formulas(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset, rule: str
) -> None:
    def scored(scorer: str) -> Dataset:
        config = ConfidenceConfig(scorer=scorer, step_size=0.7, step_size_rule=rule, batch_size=3)
        return score_confidence(model, rows, posterior, config)

    lwf, linear, overlap = scored("lwf"), scored("linear"), scored("overlap")
    terms = [terms_of(model, posterior, row) for row in rows]
    crossovers = sorted((2 * abs(product) / square, summed / abs(product)) for _, product, square, _, summed in terms)
    # A step at which two terms cross has the error of the linear one, which cancels: it is judged by what is summed.
    crossover, magnified = crossovers[len(crossovers) // 2]
    error = 1e-5 + (1e-6 * magnified if rule == "crossover" else 0.0)
    for index, (loss, product, square, norm, summed) in enumerate(terms):
        alpha = 0.7 * {"fixed": 1.0, "crossover": crossover, "polyak": loss / norm}[rule]
        assert lwf["step_size"][index] == pytest.approx(alpha, rel=error)
        assert lwf["loss"][index] == pytest.approx(loss, rel=1e-5)
        expected = pytest.approx(-alpha * product, rel=error, abs=1e-6 * alpha * summed)
        assert linear["forgetting_confidence"][index] == expected
        assert overlap["forgetting_confidence"][index] == pytest.approx(0.5 * alpha**2 * square, rel=2 * error)
        parts = [lwf[f"confidence_{part}"][index] for part in ("constant", "linear", "quadratic")]
        assert lwf["forgetting_confidence"][index] == pytest.approx(sum(parts), rel=1e-12)
        assert parts[1:] == [linear["forgetting_confidence"][index], overlap["forgetting_confidence"][index]]
    assert lwf["reference_loss"][:] == [None] * len(rows)


@pytest.mark.parametrize("count", [4, 5])
def test_crossover_is_a_fixed_step_of_the_median_crossover(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset, count: int
) -> None:
    """Bit for bit, whatever the batches, for an even and an odd number of samples and one that counts in nothing."""
    silent = {"input_ids": [4, 5, 6], "labels": [-100, -100, -100]}
    pool = Dataset.from_list([silent, *rows.select(range(count))])
    for batch_size in (1, 3, 8):
        config = ConfidenceConfig(scorer="lwf", step_size_rule="crossover", step_size=1.5, batch_size=batch_size)
        found = score_confidence(model, pool, posterior, config)
        crossovers = found["step_size_crossover"][:]
        assert crossovers[0] is None
        assert len(set(crossovers)) == count + 1
        alpha = 1.5 * median(crossovers[1:])
        fixed = ConfidenceConfig(scorer="lwf", step_size=alpha, batch_size=batch_size)
        expected = score_confidence(model, pool, posterior, fixed)
        assert found.to_dict() == expected.to_dict()
        assert found["step_size"][:] == [None] + count * [alpha]


def test_scores_at_the_crossover_do_not_depend_on_batches_or_order(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset
) -> None:
    def scored(pool: Dataset, batch_size: int) -> list[float]:
        config = ConfidenceConfig(scorer="lwf", step_size_rule="crossover", batch_size=batch_size)
        return score_confidence(model, pool, posterior, config)["forgetting_confidence"][:]

    whole = scored(rows, 1)
    assert scored(rows, 5) == pytest.approx(whole, rel=1e-5)
    assert scored(rows.select([4, 2, 0, 1, 3]), 2) == pytest.approx([whole[i] for i in (4, 2, 0, 1, 3)], rel=1e-5)
    # A pool of other samples has another α.
    assert scored(rows.select([0]), 1) != [whole[0]]


def test_line_search_takes_the_lowest_loss_of_its_grid(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset
) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scored = score_confidence(
        model, rows, posterior, ConfidenceConfig(scorer="lwf", step_size_rule="line_search", step_size=2.0)
    )
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    chosen = set()
    for index, row in enumerate(rows):
        loss, product, square, norm, summed = terms_of(model, posterior, row)
        moved = exact(model)
        gradients = torch.autograd.grad(loss_of(moved, row), list(moved.parameters()))
        after = []
        for factor in GRID:
            moved.load_state_dict(model.state_dict())
            with torch.no_grad():
                for parameter, gradient in zip(moved.parameters(), gradients, strict=True):
                    parameter.sub_(factor * loss / norm * gradient)
                after.append(loss_of(moved, row).item())
        lowest, second = sorted(after)[:2]
        assert second - lowest > 1e-5 * loss, "which one is taken would be left to rounding"
        factor = GRID[after.index(lowest)]
        chosen.add(factor)
        alpha = 2.0 * factor * loss / norm
        assert min(after) < loss
        assert scored["step_size"][index] == pytest.approx(alpha, rel=1e-5)
        linear = pytest.approx(-alpha * product, rel=1e-5, abs=1e-6 * alpha * summed)
        assert scored["confidence_linear"][index] == linear
        assert scored["confidence_quadratic"][index] == pytest.approx(0.5 * alpha**2 * square, rel=1e-5)
    assert not chosen <= {GRID[0], GRID[-1]}


def test_interference_and_loss_are_losses_of_the_two_models(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset
) -> None:
    reference, before = exact(perturbed(model, 6)), exact(model)
    model.train()
    scored = score_confidence(model, rows, posterior, ConfidenceConfig(scorer="interference", batch_size=2))
    assert all(module.training for module in model.modules())
    plain = score_confidence(model, rows, None, ConfidenceConfig(scorer="loss", batch_size=3))
    for index, row in enumerate(rows):
        base, after = loss_of(before, row).item(), loss_of(reference, row).item()
        assert scored["forgetting_confidence"][index] == pytest.approx(after - base, abs=1e-5)
        assert scored["reference_loss"][index] == pytest.approx(after, rel=1e-5)
        assert plain["forgetting_confidence"][index] == plain["loss"][index] == pytest.approx(base, rel=1e-5)
    for column in ("confidence_constant", "confidence_linear", "step_size", "reference_loss"):
        assert plain[column][:] == [None] * len(rows)
    mean_alone = LearningPosterior(posterior.mean, {}, posterior.metadata)
    again = score_confidence(model, rows, mean_alone, ConfidenceConfig(scorer="interference", batch_size=2))
    assert again["forgetting_confidence"][:] == scored["forgetting_confidence"][:]


def test_token_interference_is_what_the_answers_own_tokens_lose(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset
) -> None:
    reference, before = exact(perturbed(model, 6)), exact(model)

    def roots(of: PreTrainedModel, row: dict[str, list[int]]) -> list[float]:
        probabilities = of.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().softmax(dim=-1)
        answer = [place for place, label in enumerate(row["labels"]) if label != -100]
        return [probabilities[place - 1, row["input_ids"][place]].item() ** 0.5 for place in answer]

    scored = score_confidence(model, rows, posterior, ConfidenceConfig(scorer="token_interference", batch_size=2))
    both = score_confidence(model, rows, posterior, ConfidenceConfig(scorer="interference", batch_size=2))
    for index, row in enumerate(rows):
        falls = [max(0.0, p - q) ** 2 for p, q in zip(roots(before, row), roots(reference, row), strict=True)]
        expected = math.sqrt(sum(falls) / len(falls))
        assert scored["forgetting_confidence"][index] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        for column in ("loss", "reference_loss"):
            assert scored[column][index] == pytest.approx(both[column][index], rel=1e-5)
    assert len(set(scored["forgetting_confidence"])) > 1


def test_what_learning_makes_likelier_hides_nothing_from_token_interference(
    model: PreTrainedModel, posterior: LearningPosterior
) -> None:
    """A token that falls and one that rises: the mean loss may fall, the score never does by the second."""
    generator = torch.Generator().manual_seed(2)
    long = torch.randint(4, 64, (40,), generator=generator).tolist()
    one_by_one = [
        {"input_ids": long[: place + 1], "labels": [-100] * place + [long[place]]} for place in range(1, len(long))
    ]
    whole = Dataset.from_list([{"input_ids": long, "labels": [-100, *long[1:]]}])
    config = ConfidenceConfig(scorer="token_interference", batch_size=4)
    single = score_confidence(model, Dataset.from_list(one_by_one), posterior, config)["forgetting_confidence"][:]
    assert min(single) == 0 < max(single)
    together = math.sqrt(sum(score**2 for score in single) / len(single))
    assert score_confidence(model, whole, posterior, config)["forgetting_confidence"][0] == pytest.approx(
        together, rel=1e-3
    )


def test_gradient_cosine_opposes_the_mean_learning_gradient(
    model: PreTrainedModel, rows: Dataset, tmp_path: Path
) -> None:
    reference = exact(model)

    def gradient(row: dict[str, list[int]]) -> Tensor:
        found = torch.autograd.grad(loss_of(reference, row), list(reference.parameters()))
        return torch.cat([g.flatten() for g in found])

    learning, knowledge = rows.select([0, 3]), rows.select([0, 1, 2, 4])
    mean = (gradient(learning[0]) + gradient(learning[1])) / 2
    config = ConfidenceConfig(scorer="gradient_cosine", batch_size=3)
    scored = score_confidence(model, knowledge, None, config, learning=learning, resume_dir=tmp_path)
    expected = [-torch.cosine_similarity(gradient(row), mean, dim=0).item() for row in knowledge]
    assert scored["forgetting_confidence"][:] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert scored["loss"][:] == pytest.approx([loss_of(model, row).item() for row in knowledge], rel=1e-5)
    for column in ("confidence_constant", "confidence_linear", "confidence_quadratic", "step_size", "reference_loss"):
        assert scored[column][:] == [None] * len(knowledge)
    assert all(parameter.grad is None for parameter in model.parameters())
    conflict = ConfidenceConfig(scorer="gradient_conflict", batch_size=3)
    scored = score_confidence(model, knowledge, None, conflict, learning=learning)
    expected = [-(gradient(row) @ mean).item() for row in knowledge]
    # Products that cancel are judged by the largest.
    assert scored["forgetting_confidence"][:] == pytest.approx(expected, rel=1e-4, abs=1e-6 * max(map(abs, expected)))
    # Other learning rows are other work, whatever an earlier run left.
    other = score_confidence(model, knowledge, None, config, learning=rows.select([2]), resume_dir=tmp_path)
    assert other["forgetting_confidence"][2] == pytest.approx(-1.0, rel=1e-5)
    with pytest.raises(ValueError, match="needs the learning rows: pass learning="):
        score_confidence(model, knowledge, None, config)


def test_pairwise_conflict_is_the_worst_of_single_learning_examples(
    model: PreTrainedModel, rows: Dataset, tmp_path: Path
) -> None:
    reference = exact(model)
    head = reference.get_output_embeddings().weight
    before_output = [parameter for parameter in reference.parameters() if parameter is not head]

    def gradient(row: dict[str, list[int]]) -> Tensor:
        found = torch.autograd.grad(loss_of(reference, row), before_output)
        return torch.cat([g.flatten() for g in found])

    learning, knowledge = rows.select([0, 3]), rows.select([0, 1, 2, 4])
    config = ConfidenceConfig(scorer="pairwise_conflict", batch_size=3)
    scored = score_confidence(model, knowledge, None, config, learning=learning, resume_dir=tmp_path)
    expected = [
        max(-torch.cosine_similarity(gradient(row), gradient(example), dim=0).item() for example in learning)
        for row in knowledge
    ]
    assert scored["forgetting_confidence"][:] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert scored["loss"][:] == pytest.approx([loss_of(model, row).item() for row in knowledge], rel=1e-5)
    for column in ("confidence_constant", "confidence_linear", "confidence_quadratic", "step_size", "reference_loss"):
        assert scored[column][:] == [None] * len(knowledge)
    assert all(parameter.grad is None for parameter in model.parameters())
    # Other learning examples are other work, whatever an earlier run left: a single one agrees with itself wholly.
    other = score_confidence(model, knowledge, None, config, learning=rows.select([2]), resume_dir=tmp_path)
    assert other["forgetting_confidence"][2] == pytest.approx(-1.0, rel=1e-5)
    with pytest.raises(ValueError, match="needs the learning rows: pass learning="):
        score_confidence(model, knowledge, None, config)


def test_pairwise_conflict_of_experts_that_few_rows_reach() -> None:
    model = build("Qwen3-MoE")
    rows, learning = random_rows(5), random_rows(3, seed=4)
    config = ConfidenceConfig(scorer="pairwise_conflict", batch_size=2)
    found = score_confidence(model, rows, None, config, learning=learning)["forgetting_confidence"][:]
    names = list(parameters_before_output(model))
    own, others = (directions(oracle_gradients(model, part, names)[1]) for part in (rows, learning))
    assert found == pytest.approx((-(own @ others.mT).amin(dim=1)).tolist(), rel=1e-4, abs=1e-6)


def test_random_scores_follow_the_seed_and_nothing_else(make_model: MakeModel, rows: Dataset) -> None:
    model = make_model()
    silent = Dataset.from_list([*rows, {"input_ids": [4, 5], "labels": [-100, -100]}])

    def scored(**settings: int) -> list[float | None]:
        config = ConfidenceConfig(scorer="random", **settings)
        return score_confidence(model, silent, None, config)["forgetting_confidence"][:]

    assert scored(seed=3) == scored(seed=3, batch_size=1)
    assert scored(seed=3) != scored(seed=4)
    assert all(0 <= value < 1 for value in scored()[:-1])
    assert scored()[-1] is None


def test_every_scorer_adds_the_same_columns(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset
) -> None:
    for scorer in SCORERS:
        scored = score_confidence(model, rows, posterior, ConfidenceConfig(scorer=scorer), learning=rows)
        assert scored.column_names == [*rows.column_names, *COLUMNS]
        assert all(scored.features[column].dtype == "float64" for column in COLUMNS)
        again = score_confidence(model, scored, posterior, ConfidenceConfig(scorer="lwf"))
        assert again.column_names == scored.column_names


def test_a_scorer_reads_several_measurements_and_what_they_share_is_measured_once(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Both(Scorer):
        reads = (Losses, ReferenceLosses, LearningProducts)

        def score(self, measured: Measured) -> Tensor:
            return measured["reference_loss"] - measured["loss"] - measured["learning_cosine"]

    def scored(scorer: str) -> Tensor:
        found = score_confidence(model, rows, posterior, ConfidenceConfig(scorer=scorer, batch_size=3), learning=rows)
        return torch.tensor(found["forgetting_confidence"][:], dtype=torch.float64)

    expected = scored("interference") + scored("gradient_cosine")
    monkeypatch.setitem(SCORERS, "loss", Both())
    monkeypatch.setattr(Losses, "measure", None)
    torch.testing.assert_close(scored("loss"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["fixed", "crossover", "polyak", "line_search"])
def test_streamed_weights_give_the_scores_of_resident_ones(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset, rule: str, tmp_path: Path
) -> None:
    posterior.save_pretrained(tmp_path)
    mapped = LearningPosterior.from_pretrained(tmp_path)

    def scored(**settings: str) -> list[float]:
        config = ConfidenceConfig(**{"scorer": "lwf", "step_size_rule": rule, "batch_size": 3, **settings})
        return score_confidence(model, rows, mapped, config)["forgetting_confidence"][:]

    resident = scored()
    assert scored(weights="streamed") == pytest.approx(resident, rel=1e-6)
    halved = scored(weights="bfloat16")
    assert halved != resident
    assert halved == pytest.approx(resident, rel=1e-2)


# Which parameters -----------------------------------------------------------------------------------------------------


def lora(model: PreTrainedModel, seed: int, spread: float) -> PreTrainedModel:
    """Adapters with lora_B of this spread; 0 leaves the model's function as it is."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj", "embed_tokens"])
    adapted = get_peft_model(copy.deepcopy(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                parameter.copy_(spread * torch.randn_like(parameter))
    return adapted


@pytest.mark.parametrize("fisher_at", ["reference", "base"])
@pytest.mark.parametrize("spread", [0.0, 0.05], ids=["fresh", "trained"])
def test_merged_space_scores_as_the_dense_models_do(
    make_model: MakeModel, rows: Dataset, spread: float, fisher_at: str
) -> None:
    """A LoRA model in the merged space against the merged models, restricted to the weights with an adapter."""
    model = perturbed(make_model(), 5, 0.1)
    base, reference = lora(model, 1, spread), lora(model, 1, 0.1)
    config = PosteriorConfig(parameters="merged", estimator="empirical", fisher_at=fisher_at)
    posterior = estimate_posterior(base, reference, rows, config)
    targets = {name.removeprefix("base_model.model.").replace(".base_layer", ""): name for name in posterior.mean}
    assert len(targets) == 7
    assert all(name.endswith("base_layer.weight") for name in targets.values())

    dense_base, dense_reference = (copy.deepcopy(m).merge_and_unload() for m in (base, reference))
    for dense in (dense_base, dense_reference):
        for name, parameter in dense.named_parameters():
            parameter.requires_grad_(name in targets)
    dense_config = PosteriorConfig(estimator="empirical", fisher_at=fisher_at)
    dense_posterior = estimate_posterior(dense_base, dense_reference, rows, dense_config)
    for dense_name, name in targets.items():
        torch.testing.assert_close(posterior.mean[name], dense_posterior.mean[dense_name], rtol=1e-5, atol=1e-6)
        scale = float(dense_posterior.precision[dense_name].max())
        torch.testing.assert_close(
            posterior.precision[name], dense_posterior.precision[dense_name], rtol=1e-4, atol=1e-5 * scale
        )
    for scorer in ("lwf", "linear", "interference"):
        for rule in ("fixed", "crossover", "polyak") if scorer != "interference" else ("fixed",):
            settings = ConfidenceConfig(scorer=scorer, step_size_rule=rule, batch_size=3)
            found = score_confidence(base, rows, posterior, settings)["forgetting_confidence"][:]
            expected = score_confidence(dense_base, rows, dense_posterior, settings)["forgetting_confidence"][:]
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-6), (scorer, rule)


def test_merged_streamed_embedding_rows_count_the_adapter(make_model: MakeModel, rows: Dataset) -> None:
    base, reference = lora(make_model(), 1, 0.05), lora(make_model(), 1, 0.1)
    posterior = estimate_posterior(base, reference, rows, PosteriorConfig(parameters="merged"))
    resident = score_confidence(base, rows, posterior, ConfidenceConfig(scorer="lwf"))["confidence_linear"][:]
    streamed = score_confidence(base, rows, posterior, ConfidenceConfig(scorer="lwf", weights="streamed"))
    assert streamed["confidence_linear"][:] == pytest.approx(resident, rel=1e-5)


def test_subset_scores_are_the_sums_over_its_parameters(
    model: PreTrainedModel, posterior: LearningPosterior, rows: Dataset
) -> None:
    def quadratic(part: LearningPosterior) -> Tensor:
        return torch.tensor(
            score_confidence(model, rows, part, ConfidenceConfig(scorer="lwf"))["confidence_quadratic"][:]
        )

    whole = quadratic(posterior)
    last, mlp = posterior.subset(last_blocks=1), posterior.subset(pattern=r"mlp|embed_tokens|lm_head")
    assert set(last.mean) == {name for name in posterior.mean if ".layers.1." in name}
    assert bool((quadratic(last) < whole).all())
    rest = posterior.subset(pattern=r"self_attn|norm")
    assert set(mlp.mean) | set(rest.mean) == set(posterior.mean)
    torch.testing.assert_close(quadratic(mlp) + quadratic(rest), whole, rtol=1e-6, atol=0)
    both = posterior.subset(pattern="mlp", last_blocks=1)
    assert set(both.mean) == {name for name in last.mean if "mlp" in name}
    with pytest.raises(ValueError, match="subset already"):
        last.subset(pattern="mlp")


def test_a_subset_is_estimated_as_it_is_cut_out(model: PreTrainedModel, rows: Dataset, tmp_path: Path) -> None:
    reference = perturbed(model, 6)
    config = PosteriorConfig(parameters="pattern:mlp")
    part = estimate_posterior(model, reference, rows, config)
    cut = estimate_posterior(model, reference, rows).subset("mlp")
    assert part.metadata["parameters"] == cut.metadata["parameters"]
    assert part.precision.keys() == cut.precision.keys()
    for name, precision in cut.precision.items():
        torch.testing.assert_close(part.precision[name], precision, rtol=1e-6, atol=0)
    part.save_pretrained(tmp_path)
    assert LearningPosterior.from_pretrained(tmp_path, model=model).is_partial()


def test_a_step_that_divides_by_no_gradient_is_null(make_model: MakeModel, rows: Dataset) -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "model.norm.weight")
    mean = {"model.norm.weight": torch.full((32,), 1.1)}
    posterior = LearningPosterior(mean, {"model.norm.weight": torch.ones(32)}, {"model": fingerprint_model(model)})
    for rule in ("polyak", "line_search"):
        scored = score_confidence(model, rows, posterior, ConfidenceConfig(scorer="lwf", step_size_rule=rule))
        assert scored["step_size"][:] == [None] * len(rows)
        assert scored["forgetting_confidence"][0] == pytest.approx(0.5 * 32 * 0.01, rel=1e-5)
        assert scored["loss"][0] == pytest.approx(math.log(64), rel=1e-5)
