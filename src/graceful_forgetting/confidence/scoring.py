"""Stage 3 of the method: a score for every sample of self-knowledge."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow
import torch
from datasets import Dataset, Value
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.confidence.scorer import Inputs, Measured, Measurement, Need
from graceful_forgetting.confidence.scorers import scorer_named
from graceful_forgetting.confidence.shards import Plan, measure_rows
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients.parameters import all_finite
from graceful_forgetting.gradients.rows import tokenised_rows, usable_rows
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.runtime.batches import BatchLimit
from graceful_forgetting.runtime.shards import shard_entries

logger = logging.getLogger(__name__)


def score_confidence(
    model: PreTrainedModel,
    self_knowledge: Dataset,
    posterior: LearningPosterior | None,
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
    - `loss`: L(x) at θ_base; `reference_loss`: L(x) at θ*_L. Where a row has `other_options`, as elicitation
      gives them, L(x) is −log of its answer's share of the probability of all options;
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
        config: scorer, step size, batch size; default `ConfidenceConfig()`.
        processing_class: tokenizer; may be None where the data are tokenised.
        learning: tokenised rows (`input_ids`, `labels`) of the learning task; read by the scorers 'gradient_conflict',
            'gradient_cosine' and 'pairwise_conflict'.
        resume_dir: folder for finished shards of 1024 samples; a second call with the same
            arguments goes on from there. The caller removes it.
        announce: receives the estimates of memory and time, before the work starts.

    Raises:
        ValueError: a posterior of another model, or none where the scorer needs one; no learning rows where it
            needs those; 'interference' with a posterior of some parameters only; step-size rule 'crossover' where no
            row has a crossover, or their median is 0, since all scores would be equal; weights that are not finite;
            packed rows; a row that exceeds the model's context; no row in which a token counts; more memory
            needed than is free.
        FloatingPointError: a sample whose loss or gradient is not finite, by row and parameter.
    """
    config = config or ConfidenceConfig()
    scorer = scorer_named(config.scorer)
    if Need.POSTERIOR in scorer.needs and posterior is None:
        raise ValueError(f"posterior is None, and scorer {config.scorer!r} needs one; see estimate_posterior")
    if Need.LEARNING in scorer.needs and learning is None:
        raise ValueError(f"learning is None, and scorer {config.scorer!r} needs the learning rows: pass learning=")
    rows = tokenised_rows(self_knowledge, processing_class, argument="self_knowledge")
    lengths = usable_rows(rows, model, argument="self_knowledge")
    if posterior is not None and Need.POSTERIOR in scorer.needs:
        _check_posterior(model, posterior, config, scorer.needs)
    _check_weights(model)
    if learning is not None and Need.LEARNING in scorer.needs:
        learning = tokenised_rows(learning, None, argument="learning")

    inputs = Inputs(model, rows, config, posterior, learning, announce)
    measurements = _without_covered([measurement.of(inputs) for measurement in scorer.reads])
    plan = Plan.of(lengths, config.batch_size)
    for measurement in measurements:
        # It is measured with the longest row.
        with BatchLimit("Scoring", 1).attempt(1):
            memory = measurement.memory(inputs.batch(plan.batches[0][:1]), len(plan.batches[0]))
        announce(f"Scoring {len(lengths)} samples in {len(plan.batches)} batches: {memory}")
        memory.require_fit("scoring", config.batch_size)
    columns: dict[str, Tensor] = {}
    for measurement in measurements:
        key = "" if resume_dir is None else measurement.key()
        entries = shard_entries(resume_dir, "scores", key, len(plan.shards))
        values = measure_rows(measurement, len(rows), plan, entries, announce)
        columns |= {**values, **measurement.derived(values)}
    usable = torch.zeros(len(rows), dtype=torch.bool)
    usable[torch.frombuffer(lengths.longest_first(), dtype=torch.int64)] = True
    measured = Measured(usable, config.seed, columns)
    return _with_columns(self_knowledge, measured, scorer.score(measured))


def _without_covered(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those that are needed: a pass that measures the columns of another one as well stands for both."""
    return [one for one in measurements if not any(set(one.columns) < set(other.columns) for other in measurements)]


def _check_posterior(
    model: PreTrainedModel, posterior: LearningPosterior, config: ConfidenceConfig, needs: frozenset[Need]
) -> None:
    posterior.check_model(model)
    posterior.check_values()
    if Need.FISHER in needs and not posterior.has_fisher:
        raise ValueError(
            f"scorer {config.scorer!r} needs the Fisher information, and the posterior is a mean alone, as scorer "
            "'interference' needs it; estimate one with estimate_posterior(..., with_fisher=True)"
        )


def _check_weights(model: PreTrainedModel) -> None:
    for name, parameter in model.named_parameters():
        if not all_finite(parameter):
            raise ValueError(f"model: {name} is not finite; load an undamaged checkpoint")


# What is added to the data set, and the measured column that it is.
_ADDED = {
    "confidence_constant": "constant",
    "confidence_linear": "linear",
    "confidence_quadratic": "quadratic",
    "loss": "loss",
    "reference_loss": "reference_loss",
    "step_size": "step_size",
    "step_size_crossover": "crossover",
}


def with_unmeasured(scored: Dataset) -> Dataset:
    """Rows that come scored, with nulls in the columns that `score_confidence` would have added beside the score."""
    for name in _ADDED:
        if name not in scored.column_names:
            scored = scored.add_column(name, [None] * len(scored), feature=Value("float64"))
    return scored


def _with_columns(dataset: Dataset, measured: Measured, score: Tensor) -> Dataset:
    nothing = torch.full_like(score, torch.nan)
    columns = {"forgetting_confidence": score}
    columns |= {name: measured.columns.get(column, nothing) for name, column in _ADDED.items()}
    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    for name, column in columns.items():
        # NaN stands for what was not measured.
        array = pyarrow.array(column.numpy(), from_pandas=True)
        dataset = dataset.add_column(name, array, feature=Value("float64"))
    return dataset
