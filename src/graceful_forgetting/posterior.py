"""The learning task's posterior, N(θ*_L, F_L⁻¹) with diagonal F_L, and its estimation."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy
import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting import __version__
from graceful_forgetting.artifacts import atomic_file
from graceful_forgetting.confidence.engine import PerSampleEngine
from graceful_forgetting.confidence.likelihood import draw_targets
from graceful_forgetting.confidence.oracle import oracle_fisher
from graceful_forgetting.confidence.reducers import SquaredGradients
from graceful_forgetting.confidence.rows import batches, load_batch, tokenised_rows, usable_rows
from graceful_forgetting.config import PosteriorConfig
from graceful_forgetting.fingerprint import fingerprint_model, fingerprint_rows, fingerprint_tensors

FORMAT_VERSION = 1
POSTERIOR_FILE = "posterior.safetensors"
_HEADER = "graceful_forgetting"
_MEAN, _PRECISION = "mean.", "precision."


class LearningPosterior:
    """The learning task's posterior by Laplace: mean θ*_L, precision the diagonal Fisher information there.

    Args:
        mean, precision: float32 CPU tensors by `named_parameters()` name, of the trainable parameters; a
            tied weight stands once, under that name.
        metadata: JSON-able; its entry `model` is the fingerprint of the *base* model that the posterior is
            for.

    Raises:
        ValueError: the two differ in names or shapes; a precision that is negative or not finite, or a mean
            that is not finite (the parameter is named).
    """

    def __init__(
        self, mean: Mapping[str, Tensor], precision: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> None:
        self.mean = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in mean.items()}
        self.precision = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in precision.items()}
        self.metadata = dict(metadata)
        self.check_values()

    def check_values(self) -> None:
        """Raise `ValueError` where mean and precision do not fit together or hold impossible values."""
        if set(self.mean) != set(self.precision):
            odd = sorted(set(self.mean) ^ set(self.precision))
            raise ValueError(f"mean and precision must name the same parameters; only one has {', '.join(odd)}")
        for name, precision in self.precision.items():
            if precision.shape != self.mean[name].shape:
                raise ValueError(
                    f"precision of {name} has shape {tuple(precision.shape)}, its mean {tuple(self.mean[name].shape)}"
                )
            if not bool(precision.isfinite().all()):
                raise ValueError(f"precision of {name} is not finite; estimate the posterior again")
            if bool((precision < 0).any()):
                raise ValueError(f"precision of {name} has negative entries; a mean of squares cannot")
            if not bool(self.mean[name].isfinite().all()):
                raise ValueError(f"mean of {name} is not finite; the reference run diverged")

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `posterior.safetensors` (metadata as JSON in its header) into `directory`, atomically."""
        tensors = self._tensors()
        header = {"format_version": FORMAT_VERSION, "tensors": fingerprint_tensors(tensors), **self.metadata}
        with atomic_file(Path(directory) / POSTERIOR_FILE) as partial:
            save_file(tensors, partial, metadata={_HEADER: json.dumps(header)})

    @classmethod
    def from_pretrained(cls, directory: str | Path, model: nn.Module | None = None) -> Self:
        """Read what `save_pretrained` wrote; with `model`, also `check_model`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, one of another format version, or one for another model.
        """
        path = Path(directory) / POSTERIOR_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: no posterior was saved in {directory}")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(_HEADER, "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and estimate the posterior again") from error
        if header is None:
            raise ValueError(f"{path} is no posterior: its header has no entry {_HEADER}")
        if header.pop("format_version") != FORMAT_VERSION:
            raise ValueError(f"{path} has another format version than {FORMAT_VERSION}; estimate the posterior again")
        if header.pop("tensors") != fingerprint_tensors(tensors):
            raise ValueError(f"{path} is damaged (its tensors are not those that were written); estimate it again")
        posterior = cls(_with_prefix(tensors, _MEAN), _with_prefix(tensors, _PRECISION), header)
        if model is not None:
            posterior.check_model(model)
        return posterior

    def check_model(self, model: nn.Module) -> None:
        """Raise `ValueError`, saying what differs, unless `model` is the base model of this posterior."""
        _check_parameters(model, {name: tensor.shape for name, tensor in self.mean.items()}, "the posterior")
        theirs, own = fingerprint_model(model), self.metadata["model"]
        for key, meaning in _FINGERPRINT_MEANING.items():
            if theirs[key] != own[key]:
                raise ValueError(
                    f"the posterior belongs to another model: {meaning} differ (model {theirs[key]}, "
                    f"posterior {own[key]}); estimate one for this model, or load the model that it is for"
                )

    def _tensors(self) -> dict[str, Tensor]:
        named = [(_MEAN, self.mean), (_PRECISION, self.precision)]
        return {prefix + name: tensor.contiguous() for prefix, part in named for name, tensor in part.items()}


_FINGERPRINT_MEANING = {
    "class": "the model classes",
    "model_type": "the architectures (model_type)",
    "num_parameters": "the numbers of parameters",
    "structure": "the names, shapes or types of parameters",
    "weights": "the contents of the weights",
}


def estimate_posterior(
    model: PreTrainedModel | Mapping[str, Any],
    reference_model: PreTrainedModel,
    learning: Dataset,
    config: PosteriorConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
) -> LearningPosterior:
    """The posterior of the learning task: mean θ*_L, the reference model's weights; precision F_L there.

    Args:
        model: the base model, or its fingerprint (`fingerprint_model`), taken before the same module object
            was fine-tuned into the reference model.
        reference_model: the base model fine-tuned on the learning task; left as it was.
        learning: the learning task, any form that `graceful_forgetting.data.tokenize_dataset` takes.
        config: estimator, number of samples, batch size, seed; default `PosteriorConfig()`.
        processing_class: tokenizer; may be None where the data are tokenised.

    Raises:
        ValueError: the models differ in their trainable parameters; data that cannot be used, as in
            `estimate_fisher`.
        FloatingPointError: a gradient that is not finite.
    """
    config = config or PosteriorConfig()
    # Copied: the reference model may be the base model's own module, which is then set back to θ_base.
    mean = {name: p.detach().clone() for name, p in reference_model.named_parameters() if p.requires_grad}
    if not mean:
        raise ValueError("reference_model has no parameter that requires a gradient; unfreeze what was trained")
    if isinstance(model, nn.Module):
        _check_parameters(model, {name: p.shape for name, p in mean.items()}, "the reference model")
        model = fingerprint_model(model)
    rows = tokenised_rows(learning, processing_class, argument="learning")
    precision, num_samples = _fisher(reference_model, rows, config)
    metadata = {
        "model": dict(model),
        "data": fingerprint_rows(rows),
        "estimator": config.estimator,
        "num_samples": num_samples,
        "seed": config.seed,
        "versions": _versions(),
    }
    return LearningPosterior(mean, precision, metadata)


def estimate_fisher(
    model: PreTrainedModel, learning: Dataset, config: PosteriorConfig | None = None
) -> dict[str, Tensor]:
    """Diagonal Fisher information at the model's weights: mean over samples of the squared ∇L(x).

    L is the mean negative log-likelihood (nats) over completion tokens. With 'sampled' the label at every
    counted position is drawn from the model's own distribution there, given the data's tokens before it:
    the Fisher information of Martens, *New Insights and Perspectives on the Natural Gradient Method*, JMLR
    2020, up to the averaging over tokens. With 'empirical' the labels are the data's. Batch size and order
    of the rows do not change the draws.

    Args:
        model: at θ*_L; left as it was.
        learning: tokenised (`input_ids`, `labels`). Rows in which no token counts are left out, with a
            warning.
        config: estimator, number of samples, batch size, seed.

    Returns:
        float32 CPU tensors by name, for every parameter that requires a gradient.

    Raises:
        ValueError: packed rows; a row that exceeds the model's context; no row in which a token counts.
        FloatingPointError: a gradient that is not finite, by row.
    """
    rows = tokenised_rows(learning, None, argument="learning")
    return _fisher(model, rows, config or PosteriorConfig())[0]


def _fisher(model: PreTrainedModel, rows: Dataset, config: PosteriorConfig) -> tuple[dict[str, Tensor], int]:
    """The Fisher information and the number of rows that it is the mean over."""
    lengths = usable_rows(rows, model, argument="learning")
    if config.num_samples is not None and config.num_samples < len(lengths):
        generator = numpy.random.default_rng(config.seed)
        chosen = generator.choice(sorted(lengths), size=config.num_samples, replace=False)
        lengths = {int(index): lengths[int(index)] for index in chosen}
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    squares = SquaredGradients(parameters)
    with (
        PerSampleEngine(model, parameters) as engine,
        tqdm(total=len(lengths), desc="Estimating Fisher information", unit="sample", disable=None) as progress,
    ):
        for indices in batches(lengths, config.batch_size):

            def draw(logits: Tensor, targets: Tensor, indices: list[int] = indices) -> Tensor:
                return draw_targets(logits, targets, indices, config.seed)

            relabel = draw if config.estimator == "sampled" else None
            losses = engine.run(load_batch(rows, indices, model.device), squares, relabel)
            if not (bool(losses.isfinite().all()) and squares.is_finite()):
                break
            progress.update(len(indices))
        else:
            fisher = {name: (total / len(lengths)).cpu() for name, total in squares.totals.items()}
            return fisher, len(lengths)
    raise _not_finite(model, rows, indices)


def _not_finite(model: PreTrainedModel, rows: Dataset, indices: list[int]) -> FloatingPointError:
    """Name the rows, of the batch that failed, whose own gradient is not finite."""
    wrong = []
    for index in sorted(indices):
        fisher = oracle_fisher(model, rows.select([index]))
        if not all(bool(tensor.isfinite().all()) for tensor in fisher.values()):
            wrong.append(str(index))
    named = ", ".join(wrong or map(str, sorted(indices)))
    return FloatingPointError(
        f"learning: the gradient of row {named} is not finite; look for NaN in the model's weights, or load "
        "it in float32"
    )


def _check_parameters(model: nn.Module, shapes: Mapping[str, torch.Size], owner: str) -> None:
    parameters = dict(model.named_parameters())
    missing = sorted(set(shapes) - set(parameters))
    if missing:
        raise ValueError(f"the model has no parameter {_first(missing)}, which {owner} has")
    extra = sorted(name for name, p in parameters.items() if p.requires_grad and name not in shapes)
    if extra:
        raise ValueError(f"the model trains parameter {_first(extra)}, which {owner} does not have")
    for name, shape in shapes.items():
        if parameters[name].shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(parameters[name].shape)} in the model, {tuple(shape)} in {owner}"
            )


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "datasets")}
    return {"graceful_forgetting": __version__, "python": platform.python_version(), **packages}
