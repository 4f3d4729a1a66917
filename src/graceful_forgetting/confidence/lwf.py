"""Forgetting confidence: how far from the learning task's posterior a sample pulls the model."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from datasets import Dataset, Value
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.confidence.engine import PerSampleEngine
from graceful_forgetting.confidence.oracle import oracle_confidence_terms
from graceful_forgetting.confidence.reducers import ConfidenceTerms
from graceful_forgetting.confidence.rows import batches, load_batch, tokenised_rows, usable_rows
from graceful_forgetting.config import ConfidenceConfig

if TYPE_CHECKING:  # the Fisher estimator, beside the posterior, uses this package's engine
    from graceful_forgetting.posterior import LearningPosterior

_COLUMNS = (
    "forgetting_confidence",
    "confidence_constant",
    "confidence_linear",
    "confidence_quadratic",
    "loss",
    "step_size_crossover",
)


def score_confidence(
    model: PreTrainedModel,
    self_knowledge: Dataset,
    posterior: "LearningPosterior",
    config: ConfidenceConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
) -> Dataset:
    """Add the forgetting confidence of every row to `self_knowledge`.

    With g = ∇L(x) at θ_base, L the mean negative log-likelihood (nats) over completion tokens, Δ = θ_base −
    θ*_L and F the posterior's precision, the confidence is the negative log-posterior, constants dropped,
    of one gradient step on x:

        FC(x) = ½ Σ F (θ_base − α g − θ*_L)² = ½ Σ F Δ² − α ⟨F Δ, g⟩ + ½ α² Σ F g²

    (Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715).
    Columns added, or replaced, all float64:

    - `forgetting_confidence`: FC(x), the sum of the next three;
    - `confidence_constant`: ½ Σ F Δ², the same for all rows;
    - `confidence_linear`: −α ⟨F Δ, g⟩; `confidence_quadratic`: ½ α² Σ F g²;
    - `loss`: L(x) at θ_base;
    - `step_size_crossover`: the α at which linear and quadratic term are equally large, 2 |⟨F Δ, g⟩| / Σ F
      g² (null where g is 0).

    A row in which no token counts gets null in all but the constant. Order and other columns are kept. The
    model is left as it was.

    Args:
        model: the base model, at θ_base.
        self_knowledge: any form that `graceful_forgetting.data.tokenize_dataset` takes.
        posterior: of the learning task, for this model.
        config: step size α, batch size, engine; default `ConfidenceConfig()`.
        processing_class: tokenizer; may be None where the data are tokenised.

    Raises:
        ValueError: a posterior of another model; weights that are not finite; packed rows; a row that
            exceeds the model's context; no row in which a token counts; with `strict`, a model with modules
            that no batched rule covers.
        FloatingPointError: a sample whose loss or gradient is not finite, by row.
    """
    config = config or ConfidenceConfig()
    rows = tokenised_rows(self_knowledge, processing_class, argument="self_knowledge")
    lengths = usable_rows(rows, model, argument="self_knowledge")
    posterior.check_model(model)
    posterior.check_values()

    parameters = {name: p.detach() for name, p in model.named_parameters() if name in posterior.precision}
    for name, parameter in parameters.items():
        if not bool(parameter.isfinite().all()):
            raise ValueError(f"model: {name} is not finite; load an undamaged checkpoint")
    precision = posterior.precision
    difference = {name: p.float().cpu() - posterior.mean[name] for name, p in parameters.items()}
    linear_weights = {name: precision[name] * difference[name] for name in precision}
    constant = 0.5 * sum(
        float((linear_weights[name].double() * difference[name].double()).sum()) for name in sorted(precision)
    )
    del difference
    values = torch.full((len(rows), 3), torch.nan, dtype=torch.float64)
    if config.engine == "oracle":
        used = sorted(lengths)
        terms = oracle_confidence_terms(model, rows.select(used), linear_weights, precision)
        values[used] = torch.stack(terms, dim=1)
        _require_finite(values, used)
    else:
        _score_batches(values, model, rows, lengths, linear_weights, precision, config)
    return _with_columns(self_knowledge, values, constant, config.step_size)


def _score_batches(
    values: Tensor,
    model: PreTrainedModel,
    rows: Dataset,
    lengths: dict[int, int],
    linear_weights: Mapping[str, Tensor],
    quadratic_weights: Mapping[str, Tensor],
    config: ConfidenceConfig,
) -> None:
    """Fill `values`, (rows, 3): loss, ⟨V, g⟩, Σ F g² of the rows in `lengths`."""
    terms = ConfidenceTerms(linear_weights, quadratic_weights, dict(model.named_parameters()))
    with (
        PerSampleEngine(model, quadratic_weights, strict=config.strict) as engine,
        tqdm(total=len(lengths), desc="Scoring confidence", unit="sample", disable=None) as progress,
    ):
        for indices in batches(lengths, config.batch_size):
            loss = engine.run(load_batch(rows, indices, model.device), terms)
            values[indices] = torch.stack([loss.double(), terms.linear, terms.quadratic], dim=1).cpu()
            _require_finite(values, indices)
            progress.update(len(indices))


def _require_finite(values: Tensor, indices: list[int]) -> None:
    wrong = [index for index in indices if not bool(values[index].isfinite().all())]
    if wrong:
        loss, linear, quadratic = values[wrong[0]].tolist()
        raise FloatingPointError(
            f"self_knowledge: the gradient of row {wrong[0]} is not finite (loss {loss}, ⟨FΔ, g⟩ {linear}, "
            f"Σ F g² {quadratic}); look for NaN in the model's weights, or load it in float32"
        )


def _with_columns(dataset: Dataset, values: Tensor, constant: float, step_size: float) -> Dataset:
    columns: dict[str, list[float | None]] = {name: [] for name in _COLUMNS}
    for loss, product, square in values.tolist():
        if math.isnan(loss):
            scores = (None, constant, None, None, None, None)
        else:
            linear, quadratic = -step_size * product, 0.5 * step_size**2 * square
            crossover = 2 * abs(product) / square if square > 0 else None
            scores = (constant + linear + quadratic, constant, linear, quadratic, loss, crossover)
        for name, score in zip(_COLUMNS, scores, strict=True):
            columns[name].append(score)
    dataset = dataset.remove_columns([name for name in _COLUMNS if name in dataset.column_names])
    for name, column in columns.items():
        dataset = dataset.add_column(name, column, feature=Value("float64"))
    return dataset
