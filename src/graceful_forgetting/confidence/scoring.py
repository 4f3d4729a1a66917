"""Stage 3 of the method: a score for every sample of self-knowledge."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pyarrow
import torch
from datasets import Dataset, Value
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.confidence import measure
from graceful_forgetting.confidence.learning_gradient import LearningMeasurement, mean_gradient
from graceful_forgetting.confidence.line_search import LineSearchMeasurement
from graceful_forgetting.confidence.measure import ForwardMeasurement, GradientMeasurement, Measurement
from graceful_forgetting.confidence.pairwise import (
    LearningDirections,
    PairwiseMeasurement,
    PairwiseOracle,
    feature_width,
    parameters_before_output,
)
from graceful_forgetting.confidence.scorer import Measured, Need, crossover, reads_fisher
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.confidence.shards import Plan, ShardStore, measure_rows
from graceful_forgetting.confidence.weights import DTYPES, ConfidenceWeights
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients import memory as estimate
from graceful_forgetting.gradients.diagnosis import not_finite
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.gradients.projection import projection_bytes
from graceful_forgetting.gradients.rows import load_batch, tokenised_rows, usable_rows
from graceful_forgetting.runtime.fingerprint import fingerprint_json, fingerprint_model, fingerprint_rows

if TYPE_CHECKING:  # the Fisher estimator, which the posterior is made with, uses this package's engine
    from graceful_forgetting.posterior import LearningPosterior

logger = logging.getLogger(__name__)


def score_confidence(
    model: PreTrainedModel,
    self_knowledge: Dataset,
    posterior: "LearningPosterior | None",
    config: ConfidenceConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    *,
    learning: Dataset | None = None,
    resume_dir: str | Path | None = None,
    announce: Callable[[str], None] = logger.info,
) -> Dataset:
    """Add a score, by default the forgetting confidence, to every row of `self_knowledge`.

    With g = ∇L(x) at θ_base, L the mean negative log-likelihood (nats) over completion tokens, Δ = θ_base −
    θ*_L and F the posterior's precision, the confidence is the negative log-posterior, constants dropped,
    of one gradient step on x:

        FC(x) = ½ Σ F (θ_base − α g − θ*_L)² = ½ Σ F Δ² − α ⟨F Δ, g⟩ + ½ α² Σ F g²

    (Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715).
    Columns added, or replaced, all float64; those that the scorer does not need are null:

    - `forgetting_confidence`: the score; with scorer 'lwf' FC(x), the sum of the next three;
    - `confidence_constant`: ½ Σ F Δ², the same for all rows;
    - `confidence_linear`: −α ⟨F Δ, g⟩; `confidence_quadratic`: ½ α² Σ F g²;
    - `loss`: L(x) at θ_base; `reference_loss`: L(x) at θ*_L;
    - `step_size`: α (null where g is 0 and the rule divides by it);
    - `step_size_crossover`: the α at which linear and quadratic term are equally large, 2 |⟨F Δ, g⟩| / Σ F
      g² (null where Σ F g² is 0).

    With step-size rule 'crossover', α is `config.step_size` times the median of `step_size_crossover` over all rows
    that have one, whichever process measured them; scored again at other weights, it is that of these weights.

    A row in which no token counts gets null in all but the constant. Order and other columns are kept. The
    model is left as it was.

    Under several processes (accelerate, torchrun) every one must call this with the same arguments; each
    measures a share of the rows and all return the same scores, bit for bit those of one process.

    Args:
        model: the base model, at θ_base.
        self_knowledge: any form that `graceful_forgetting.data.tokenize_dataset` takes.
        posterior: of the learning task, for this model; may be None for a scorer that does not need it.
        config: scorer, step size, batch size, engine; default `ConfidenceConfig()`.
        processing_class: tokenizer; may be None where the data are tokenised.
        learning: tokenised rows (`input_ids`, `labels`) of the learning task; read by the scorers 'gradient_conflict',
            'gradient_cosine' and 'pairwise_conflict'.
        resume_dir: folder for finished shards of `config.shard_size` samples; a second call with the same
            arguments goes on from there. The caller removes it.
        announce: receives the estimates of memory and time, before the work starts.

    Raises:
        ValueError: a posterior of another model, or none where the scorer needs one; no learning rows where it
            needs those; 'interference' with a posterior of some parameters only; step-size rule 'crossover' where no
            row has a crossover, or their median is 0, since all scores would be equal; weights that are not finite;
            packed rows; a row that exceeds the model's context; no row in which a token counts; with `strict`, a
            model with modules that no batched rule covers; more memory needed than is free.
        FloatingPointError: a sample whose loss or gradient is not finite, by row and parameter.
    """
    config = config or ConfidenceConfig()
    scorer = SCORERS[config.scorer]
    if Need.POSTERIOR in scorer.needs and posterior is None:
        raise ValueError(f"posterior is None, and scorer {config.scorer!r} needs one; see estimate_posterior")
    if Need.LEARNING in scorer.needs and learning is None:
        raise ValueError(f"learning is None, and scorer {config.scorer!r} needs the learning rows: pass learning=")
    rows = tokenised_rows(self_knowledge, processing_class, argument="self_knowledge")
    lengths = usable_rows(rows, model, argument="self_knowledge")
    if posterior is not None and Need.POSTERIOR in scorer.needs:
        _check_posterior(model, posterior, config)
    _check_weights(model)

    constant = math.nan
    values = torch.full((len(rows), measure.WIDTH), torch.nan, dtype=torch.float64)
    if scorer.needs:
        plan = Plan.of(lengths, config.batch_size, config.shard_size)
        row = load_batch(rows, plan.batches[0][:1], model.device)
        together = min(config.batch_size, len(plan.batches[0]))
        memory = _memory(
            model, row, posterior, config, scorer.needs, together, 0 if learning is None else len(learning)
        )
        announce(f"Scoring {len(lengths)} samples in {len(plan.batches)} batches: {memory}")
        memory.require_fit(config)
        measurement: Measurement
        names = list(posterior.mean) if posterior is not None else []
        if Need.PAIRS in scorer.needs:
            assert learning is not None
            examples = tokenised_rows(learning, None, argument="learning")
            compared = parameters_before_output(model)
            names = list(compared)
            if config.engine == "oracle":
                measurement = PairwiseOracle(model, rows, examples)
            else:
                width = feature_width(compared, len(examples), config.batch_size)
                directions = LearningDirections(model, examples, config.batch_size, width, strict=config.strict)
                measurement = PairwiseMeasurement(model, rows, directions, config.strict)
        elif Need.LEARNING in scorer.needs:
            assert learning is not None
            gradient = mean_gradient(model, tokenised_rows(learning, None, argument="learning"), config.batch_size)
            names = list(gradient)
            measurement = LearningMeasurement(model, rows, gradient, config)
        elif Need.GRADIENTS in scorer.needs:
            assert posterior is not None
            placement, dtype = config.weights_placement, DTYPES[config.weights_dtype]
            weights = ConfidenceWeights(ParameterValues(model, posterior.mean), posterior, placement, dtype)
            constant = weights.constant
            if config.step_size_rule == "line_search":
                measurement = LineSearchMeasurement(model, rows, weights)
            else:
                measurement = GradientMeasurement(model, rows, weights, config)
        else:
            mean = posterior.mean if posterior is not None and Need.POSTERIOR in scorer.needs else None
            measurement = ForwardMeasurement(model, rows, mean)
        store = None if resume_dir is None else ShardStore(resume_dir, _key(model, rows, posterior, learning, config))

        def check(found: Tensor, indices: Sequence[int]) -> None:
            wrong = _not_finite_rows(found, indices, scorer.needs)
            if wrong:
                raise not_finite(model, rows, wrong, names, "self_knowledge")

        values = measure_rows(measurement, len(rows), plan, store, check, announce)
    step_size = config.step_size * values[:, measure.STEP]
    if config.step_size_rule == "crossover":
        at = _median_crossover(values)
        announce(f"α is {config.step_size * at:.3g}: {config.step_size:g} times the median crossover of the samples")
        step_size *= at
    usable = torch.zeros(len(rows), dtype=torch.bool)
    usable[list(lengths)] = True
    measured = Measured(
        usable=usable,
        constant=constant,
        loss=values[:, measure.LOSS],
        product=values[:, measure.PRODUCT],
        square=values[:, measure.SQUARE],
        step_size=step_size,
        reference_loss=values[:, measure.REFERENCE_LOSS],
        learning_product=values[:, measure.LEARNING_PRODUCT],
        learning_cosine=values[:, measure.COSINE],
        least_cosine=values[:, measure.LEAST_COSINE],
        seed=config.seed,
    )
    return _with_columns(self_knowledge, measured, scorer.score(measured))


def _check_posterior(model: PreTrainedModel, posterior: "LearningPosterior", config: ConfidenceConfig) -> None:
    posterior.check_model(model)
    posterior.check_values()
    if posterior.is_partial() and config.scorer == "interference":
        raise ValueError(
            f"scorer 'interference' needs θ*_L whole, and the posterior covers a part of it ({posterior.coverage}); "
            "estimate one with parameters='trainable' or 'merged'"
        )
    if reads_fisher(SCORERS[config.scorer].needs) and not posterior.has_fisher:
        raise ValueError(
            f"scorer {config.scorer!r} needs the Fisher information, and the posterior is a mean alone, as scorer "
            "'interference' needs it; estimate one with estimate_posterior(..., with_fisher=True)"
        )


def _check_weights(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"model: {name} is not finite; load an undamaged checkpoint")


def _memory(
    model: PreTrainedModel,
    row: dict[str, Tensor],
    posterior: "LearningPosterior | None",
    config: ConfidenceConfig,
    needs: frozenset[Need],
    batch_size: int,
    learning_rows: int,
) -> estimate.MemoryEstimate:
    """What scoring needs, from the longest row."""
    weights = copies = 0
    covered = {} if posterior is None else {n: p for n, p in model.named_parameters() if n in posterior.mean}
    if Need.PAIRS in needs:
        compared = parameters_before_output(model)
        oracle = config.engine == "oracle"
        activations = estimate.backward_bytes(model, row, 1 if oracle else batch_size, list(compared))
        if oracle:
            # Gradients of all learning examples and of a batch, in float64.
            size = sum(parameter.numel() for parameter in compared.values())
            copies = 8 * size * (learning_rows + batch_size)
        else:
            # Directions of all learning examples; of a batch, the gradients as they come and at length 1.
            width = feature_width(compared, learning_rows, batch_size)
            copies = 4 * width * (learning_rows + 2 * batch_size) + projection_bytes(compared, width)
    elif Need.LEARNING in needs:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        activations = estimate.backward_bytes(model, row, batch_size, list(trained))
        # The mean gradient, and that of one batch while it is formed.
        copies = 2 * sum(4 * parameter.numel() for parameter in trained.values())
    elif Need.GRADIENTS in needs:
        line_search, oracle = config.step_size_rule == "line_search", config.engine == "oracle"
        together = 1 if line_search or oracle else batch_size
        activations = estimate.backward_bytes(model, row, together, list(covered))
        weights = estimate.weight_bytes(covered, config)
        if line_search or oracle:
            # The gradient and, to step along it, as much again.
            copies = 2 * sum(parameter.nbytes for parameter in covered.values())
    else:
        activations = estimate.forward_bytes(model, row, batch_size)
        if Need.POSTERIOR in needs:
            copies = sum(parameter.nbytes for parameter in covered.values())
    return estimate.MemoryEstimate(
        weights, activations, copies, estimate.available_bytes(model.device), str(model.device)
    )


def _key(
    model: PreTrainedModel,
    rows: Dataset,
    posterior: "LearningPosterior | None",
    learning: Dataset | None,
    config: ConfidenceConfig,
) -> str:
    """Hash of what measured values depend on; of the scorer, only what it has measured."""
    # The crossover is worked out from values that are measured as for a fixed step.
    rule = "fixed" if config.step_size_rule == "crossover" else config.step_size_rule
    settings = [rule, config.batch_size, config.shard_size, config.engine, config.weights_dtype]
    return fingerprint_json(
        {
            "model": fingerprint_model(model),
            "rows": fingerprint_rows(rows),
            "posterior": None if posterior is None else posterior.fingerprint(),
            "learning": None if learning is None else fingerprint_rows(learning),
            "columns": measure.WIDTH,
            "needs": sorted(need.value for need in SCORERS[config.scorer].needs),
            "settings": settings,
        }
    )


def _not_finite_rows(values: Tensor, indices: Sequence[int], needs: frozenset[Need]) -> list[int]:
    columns = [measure.LOSS]
    if Need.PAIRS in needs:
        columns += [measure.LEAST_COSINE]
    elif Need.LEARNING in needs:
        columns += [measure.COSINE]
    elif Need.GRADIENTS in needs:
        columns += [measure.PRODUCT, measure.SQUARE]
    elif Need.POSTERIOR in needs:
        columns += [measure.REFERENCE_LOSS]
    finite = values[:, columns].isfinite().all(dim=1)
    return [index for index, good in zip(indices, finite.tolist(), strict=True) if not good]


def _median_crossover(values: Tensor) -> float:
    """Median of the finite crossovers; `values`: (rows, WIDTH), of all rows."""
    found = crossover(values[:, measure.PRODUCT], values[:, measure.SQUARE])
    finite = found[found.isfinite()].tolist()
    if not finite:
        raise ValueError(
            "step_size_rule='crossover': no sample of self_knowledge has a crossover, since Σ F g² is 0 for all of "
            "them (F is 0 wherever they have a gradient), so that all scores are equal; estimate a posterior of other "
            "learning rows or parameters, or use step_size_rule='fixed'"
        )
    found_median = median(finite)
    if found_median == 0:
        raise ValueError(
            "step_size_rule='crossover': the median crossover of self_knowledge is 0, since ⟨F Δ, g⟩ is 0 for half of "
            "the samples or more (θ*_L is θ_base in what they have gradients of); train the reference run further, or "
            "use step_size_rule='fixed'"
        )
    return found_median


def _with_columns(dataset: Dataset, measured: Measured, score: Tensor) -> Dataset:
    columns = {
        "forgetting_confidence": score,
        "confidence_constant": torch.full_like(score, measured.constant),
        "confidence_linear": measured.linear,
        "confidence_quadratic": measured.quadratic,
        "loss": measured.loss,
        "reference_loss": measured.reference_loss,
        "step_size": measured.step_size,
        "step_size_crossover": measured.crossover,
    }
    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    for name, column in columns.items():
        # NaN stands for what was not measured.
        array = pyarrow.array(column.numpy(), from_pandas=True)
        dataset = dataset.add_column(name, array, feature=Value("float64"))
    return dataset
