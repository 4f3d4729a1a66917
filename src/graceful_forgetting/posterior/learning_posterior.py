"""The learning task's posterior, N(θ*_L, F_L⁻¹) with diagonal F_L, and its estimation."""

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import PosteriorConfig
from graceful_forgetting.gradients.parameters import (
    ParameterValues,
    all_finite,
    covered_parameters,
    matching_names,
    unrestricted_names,
)
from graceful_forgetting.gradients.rows import tokenised_rows
from graceful_forgetting.posterior.fisher import estimate_fisher, fisher_estimate
from graceful_forgetting.runtime.artifacts import atomic_file
from graceful_forgetting.runtime.fingerprint import fingerprint_model, fingerprint_rows, fingerprint_tensors
from graceful_forgetting.runtime.version import __version__

__all__ = ["POSTERIOR_FILE", "LearningPosterior", "estimate_fisher", "estimate_posterior", "reference_mean"]

FORMAT_VERSION = 2
POSTERIOR_FILE = "posterior.safetensors"
_HEADER = "graceful_forgetting"
_MEAN, _PRECISION = "mean.", "precision."


class LearningPosterior:
    """The learning task's posterior by Laplace: mean θ*_L, precision the diagonal Fisher information.

    Args:
        mean, precision: float32 CPU tensors by `named_parameters()` name, of the parameters covered; a tied
            weight stands once, under that name. Read from a file they are memory-mapped. `precision` may be empty,
            for what reads the mean alone.
        metadata: JSON-able; its entry `model` is the fingerprint of the *base* model that the posterior is
            for (without it, names and shapes alone can tell another model), `parameters` (`space`, `pattern`,
            `last_blocks`) says which parameters are covered; without it all trainable ones are; `fisher_at`
            ('reference' or 'base') at which weights the precision was estimated.

    Raises:
        ValueError: the two differ in names or shapes; a precision that is negative or not finite, or a mean
            that is not finite (the parameter is named).
    """

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        precision: Mapping[str, Tensor],
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.mean = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in mean.items()}
        self.precision = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in precision.items()}
        self.metadata = dict(metadata or {})
        self.check_values()

    def check_values(self) -> None:
        """Raise `ValueError` where mean and precision do not fit together or hold impossible values."""
        if self.has_fisher and set(self.mean) != set(self.precision):
            odd = sorted(set(self.mean) ^ set(self.precision))
            raise ValueError(f"mean and precision must name the same parameters; only one has {', '.join(odd)}")
        for name, mean in self.mean.items():
            if not all_finite(mean):
                raise ValueError(f"mean of {name} is not finite; the reference run diverged")
        for name, precision in self.precision.items():
            if precision.shape != self.mean[name].shape:
                raise ValueError(
                    f"precision of {name} has shape {tuple(precision.shape)}, its mean {tuple(self.mean[name].shape)}"
                )
            if not all_finite(precision):
                raise ValueError(f"precision of {name} is not finite; estimate the posterior again")
            if precision.numel() and bool(precision.min() < 0):
                raise ValueError(f"precision of {name} has negative entries; a mean of squares cannot")

    @property
    def has_fisher(self) -> bool:
        """Whether there is a precision."""
        return bool(self.precision)

    @property
    def coverage(self) -> dict[str, Any]:
        """`space`, `pattern` and `last_blocks`: which parameters are covered."""
        return {"space": "trainable", "pattern": None, "last_blocks": None, **self.metadata.get("parameters", {})}

    def is_partial(self) -> bool:
        """Whether some of the parameters that are trained are left out."""
        return self.coverage["pattern"] is not None or self.coverage["last_blocks"] is not None

    def subset(self, pattern: str | None = None, last_blocks: int | None = None) -> Self:
        """The posterior of some parameters only; scores with it approximate those with all.

        Args:
            pattern: regular expression that is searched in parameter names.
            last_blocks: number of transformer blocks, counted from the last.

        Raises:
            ValueError: no parameter is left; the posterior is a subset already.
        """
        if self.is_partial():
            raise ValueError(f"the posterior is a subset already ({self.coverage}); take one of the full posterior")
        names = matching_names(self.mean, pattern, last_blocks)
        coverage = {"space": self.coverage["space"], "pattern": pattern, "last_blocks": last_blocks}
        return type(self)(
            {name: self.mean[name] for name in names},
            {name: self.precision[name] for name in names if self.has_fisher},
            self.metadata | {"parameters": coverage},
        )

    def fingerprint(self) -> str:
        """Content hash of mean and precision."""
        return fingerprint_tensors(self._tensors())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `posterior.safetensors` (metadata as JSON in its header) into `directory`, atomically."""
        tensors = self._tensors()
        header = {"format_version": FORMAT_VERSION, "tensors": fingerprint_tensors(tensors), **self.metadata}
        with atomic_file(Path(directory) / POSTERIOR_FILE) as partial:
            save_file(tensors, partial, metadata={_HEADER: json.dumps(header)})

    @classmethod
    def from_pretrained(cls, directory: str | Path, model: nn.Module | None = None) -> Self:
        """Read what `save_pretrained` wrote; with `model`, also `check_model`.

        The file is memory-mapped: its tensors take no memory of the process, only of the page cache.

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
        expected = () if self.is_partial() else unrestricted_names(model, self.coverage["space"])
        _check_parameters(model, {n: tensor.shape for n, tensor in self.mean.items()}, expected, "the posterior")
        own = self.metadata.get("model")
        if own is None:
            return
        theirs = fingerprint_model(model)
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
    "config": "the settings of the architecture (rope_theta, num_attention_heads, lora_alpha or the like)",
    "weights": "the contents of the weights",
}


def reference_mean(reference_model: nn.Module, config: PosteriorConfig | None = None) -> dict[str, Tensor]:
    """θ*_L by name, of the parameters that a posterior of these settings covers: float32 copies on the CPU.

    Raises:
        ValueError: no parameter that requires a gradient, or none that is covered.
    """
    config = config or PosteriorConfig()
    if not any(parameter.requires_grad for parameter in reference_model.parameters()):
        raise ValueError("reference_model has no parameter that requires a gradient; unfreeze what was trained")
    names = _covered(reference_model, config)
    values = ParameterValues(reference_model, names)
    # Copied: the reference model may be the base model's own module, which is then set back to θ_base.
    return {name: values[name].to("cpu", copy=True) for name in names}


def estimate_posterior(
    model: PreTrainedModel | Mapping[str, Any],
    reference_model: PreTrainedModel | Mapping[str, Tensor],
    learning: Dataset,
    config: PosteriorConfig | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    resume_dir: str | Path | None = None,
    with_fisher: bool = True,
) -> LearningPosterior:
    """The posterior of the learning task: mean θ*_L, the reference model's weights; precision F_L.

    F_L is estimated at θ*_L, as in Laplace's approximation, or with `config.fisher_at='base'` at θ_base. There it
    does not depend on the reference run; of a LoRA model whose factors B are still 0 it is 0 for the factors A, which
    then have no gradient in any sample either (scored again at other weights they have one, which F leaves out).

    Where the reference model is the base model's own module, fine-tuned in place, one of the two has to be given by
    what was kept of it: for F at θ*_L the base model by its fingerprint, for F at θ_base the reference by its mean.

    Args:
        model: the base model. With `fisher_at='reference'` also its fingerprint (`fingerprint_model`).
        reference_model: the base model fine-tuned on the learning task. With `fisher_at='base'` also its weights
            (`reference_mean`, under the same config). Models are left as they were.
        learning: the learning task, any form that `graceful_forgetting.data.tokenize_dataset` takes.
        config: estimator, number of samples, parameters, batch size, seed; default `PosteriorConfig()`.
        processing_class: tokenizer; may be None where the data are tokenised.
        resume_dir: see `estimate_fisher`, which also says what holds under several processes.
        with_fisher: False for the mean alone, without a backward pass: all that scorer 'interference' reads.

    Returns:
        the posterior; its metadata have the fingerprints of the base model and the data, the estimator with its
        settings, `trace` (Σ F) and `trace_standard_error` (null for a single sample), and versions.

    Raises:
        ValueError: the models differ in their trainable parameters; the model that F is estimated at is not given
            as a model; data that cannot be used, as in `estimate_fisher`.
        FloatingPointError: a gradient that is not finite.
    """
    config = config or PosteriorConfig()
    measured = _measured(model, reference_model, config) if with_fisher else None
    mean = reference_mean(reference_model, config) if isinstance(reference_model, nn.Module) else dict(reference_model)
    if isinstance(model, nn.Module):
        covered = config.covered
        partial = covered.pattern is not None or covered.last_blocks is not None
        expected = () if partial else unrestricted_names(model, covered.space)
        _check_parameters(model, {name: p.shape for name, p in mean.items()}, expected, "the reference model")
        if measured is not None and measured is model:
            _check_covered(measured, mean, config)
        model = fingerprint_model(model)
    rows = tokenised_rows(learning, processing_class, argument="learning")
    metadata = {
        "model": dict(model),
        "data": fingerprint_rows(rows),
        "parameters": asdict(config.covered),
        "seed": config.seed,
        "versions": _versions(),
    }
    if measured is None:
        return LearningPosterior(mean, {}, metadata | {"estimator": None})
    fisher = fisher_estimate(measured, rows, config, resume_dir)
    metadata |= {
        "estimator": config.estimator,
        "fisher_at": config.fisher_at,
        "num_samples": fisher.num_samples,
        "trace": fisher.trace,
        "trace_standard_error": fisher.trace_standard_error,
    }
    return LearningPosterior(mean, fisher.diagonal, metadata)


def _measured(
    model: PreTrainedModel | Mapping[str, Any],
    reference_model: PreTrainedModel | Mapping[str, Tensor],
    config: PosteriorConfig,
) -> PreTrainedModel:
    """The model at whose weights F is estimated."""
    if config.fisher_at == "reference":
        if isinstance(reference_model, nn.Module):
            return reference_model
        raise ValueError(
            "fisher_at='reference' needs the reference model itself, and reference_model is its weights only: pass the "
            "model at θ*_L, or use fisher_at='base'"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(
            "fisher_at='base' needs the base model itself, and model is its fingerprint only: pass the model at θ_base "
            "(where it is the reference model's own module: set back to θ_base, with reference_model=reference_mean("
            "...) taken before), or use fisher_at='reference'"
        )
    if model is reference_model:
        raise ValueError(
            "fisher_at='base': model and reference_model are the same module, which cannot be at θ_base and at θ*_L at "
            "once: pass reference_model=reference_mean(...), taken before the module was set back to θ_base"
        )
    return model


def _covered(model: nn.Module, config: PosteriorConfig) -> list[str]:
    return list(covered_parameters(model, config.covered))


def _check_covered(model: nn.Module, mean: Mapping[str, Tensor], config: PosteriorConfig) -> None:
    """Raise unless F at the base model is of the parameters of `mean`."""
    covered = set(_covered(model, config))
    frozen = sorted(set(mean) - covered)
    if frozen:
        raise ValueError(
            f"fisher_at='base': {_first(frozen)} does not require a gradient in the base model, as in the reference "
            "model; unfreeze there what was trained"
        )
    missing = sorted(covered - set(mean))
    if missing:
        raise ValueError(
            f"fisher_at='base': {_first(missing)} is covered by config, and reference_model has no weights of it; take "
            "reference_mean(...) under the same config"
        )


def _check_parameters(
    model: nn.Module, shapes: Mapping[str, torch.Size], expected: Collection[str], owner: str
) -> None:
    """Raise unless the model has parameters of these shapes, and `expected` are all among them."""
    parameters = dict(model.named_parameters())
    missing = sorted(set(shapes) - set(parameters))
    if missing:
        raise ValueError(f"the model has no parameter {_first(missing)}, which {owner} has")
    extra = sorted(set(expected) - set(shapes))
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
