"""Measuring one build of a world: its reference runs, and every score of its self-knowledge."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from evidence.scoring_study.rows import MULTIPLES, Setting, StudyRow, detection
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.config import ConfidenceConfig, PosteriorConfig
from graceful_forgetting.config.confidence import ScorerName, StepSizeRule
from graceful_forgetting.elicitation import elicit_self_knowledge
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.fisher import estimate_fisher
from graceful_forgetting.posterior.reference import reference_args, train_reference
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runs.recipe import recipe_from_fields
from graceful_forgetting.runs.training import arm_args
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.sweeps.scores import LETTERS, kinds_of
from graceful_forgetting.training.preparation import SCORE_COLUMN

# How the Fisher information is estimated. 'exact' takes a gradient for every word of the vocabulary at each position of
# a learning row, hence few rows.
FISHERS: dict[str, dict[str, Any]] = {
    "sampled": {"estimator": "sampled"},
    "sampled, 8 draws": {"estimator": "sampled"},
    "empirical": {"estimator": "empirical"},
    "exact": {"estimator": "exact", "num_samples": 40},
}
# Labels drawn per position, where not 1.
DRAWS = {"sampled, 8 draws": 8}
POINTS = ("reference", "base")
# Samples, drawn at random, whose steps are found by line search: 13 passes for each.
SEARCHED_ROWS = 600
# Scores that read the base model alone, and so are the same with every reference run.
OF_THE_BASE: tuple[ScorerName, ...] = ("loss", "gradient_conflict", "gradient_cosine", "pairwise_conflict")
OTHERS: tuple[ScorerName, ...] = ("interference", "random", *OF_THE_BASE)


@dataclass(frozen=True)
class Terms:
    """The terms of the confidence by row, at α = 1, and the steps of the other rules, (rows,) each.

    FC − C0 = α · `linear` + α² · `quadratic`. A step is 0 where the gradient is.
    """

    linear: NDArray[np.float64]
    quadratic: NDArray[np.float64]
    polyak: NDArray[np.float64]

    @classmethod
    def of(cls, scored: Dataset) -> "Terms":
        """From what `score_confidence` returns with rule 'polyak'."""
        step = _column(scored, "step_size")
        known = np.where(step > 0, step, 1.0)
        return cls(
            _column(scored, "confidence_linear") / known, _column(scored, "confidence_quadratic") / known**2, step
        )

    def crossover(self) -> float:
        """Median over the rows of the α at which both terms are equally large."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.abs(self.linear) / self.quadratic
        return float(median(ratios[np.isfinite(ratios)]))

    def confidence(self, step: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Forgetting confidence without its constant, with one step for all rows or one for each."""
        return self.linear * step + self.quadratic * step**2


class BuildStudy:
    """One build of a world: its self-knowledge and what of the scores does not depend on a reference run.

    Args:
        world: name.
        build: seed of the build.
        recipe: fields of a recipe for training and elicitation.
        work: folder for what trainers write.
        line_search: also find the steps of rule 'line_search', of `SEARCHED_ROWS` samples; measures of this rule are
            of these alone.
    """

    def __init__(
        self, world: str, build: int, recipe: Mapping[str, Any], work: Path, *, line_search: bool = True
    ) -> None:
        self.world, self.build, self.work = world, build, work
        fields = {**recipe, "world": world, "world_seed": build, "output_dir": str(work)}
        self.run, self.lwf, model = recipe_from_fields(fields, where=f"the recipe of {world}")
        self.inputs = RunInputs(self.run, self.lwf, model)
        self.model: PreTrainedModel = self.base_model()
        self.fingerprint = fingerprint_model(self.model)
        config, tokenizer = self.lwf.elicitation_config(), self.inputs.tokenizer
        self.knowledge = elicit_self_knowledge(self.model, tokenizer, self.inputs.forgetting_prompts, config)
        kinds = kinds_of(self.knowledge, self.inputs.sources.forgetting)
        self.kinds = [LETTERS[kind or ""] for kind in kinds]
        self.batch_size = self.lwf.confidence_batch_size
        self.line_search = line_search
        self._of_the_base: dict[ScorerName, tuple[NDArray[np.float64], float]] = {}
        self._at_base: dict[str, tuple[dict[str, Tensor], float]] = {}

    def rows(
        self, seed: int, fishers: Collection[str] = tuple(FISHERS), scorers: Collection[ScorerName] = OTHERS
    ) -> Iterator[StudyRow]:
        """Settings with the reference run of this seed: confidences with each of `fishers`, and other `scorers`."""
        start = time.process_time()
        # Where no score reads a reference run, none is made, and any model stands in for it.
        needed = bool(fishers) or "interference" in scorers
        reference = self._reference(seed) if needed else self.model
        trained = time.process_time() - start
        mean = {name: parameter.detach() for name, parameter in reference.named_parameters()}
        for fisher in fishers:
            for at in POINTS:
                precision, estimated = self._fisher(reference, seed, fisher, at)
                posterior = LearningPosterior(mean, precision, {"model": self.fingerprint})
                scored, seconds = self._scored("lwf", posterior, rule="polyak")
                yield from self._confidences(seed, fisher, at, Terms.of(scored), trained + estimated + seconds)
        for scorer in scorers:
            score, seconds = self._other(scorer, seed, mean)
            yield self._row(seed, Setting(scorer), score, seconds + (trained if scorer == "interference" else 0.0))

    def _other(self, scorer: ScorerName, seed: int, mean: Mapping[str, Tensor]) -> tuple[NDArray[np.float64], float]:
        """A score that reads no Fisher information, and its seconds without the reference run."""
        if scorer in self._of_the_base:
            return self._of_the_base[scorer]
        posterior = LearningPosterior(mean, _zeros(mean), {"model": self.fingerprint})
        scored, seconds = self._scored(scorer, posterior, seed=seed)
        result = _column(scored, SCORE_COLUMN), seconds
        if scorer in OF_THE_BASE:
            self._of_the_base[scorer] = result
        return result

    def _confidences(self, seed: int, fisher: str, at: str, terms: Terms, seconds: float) -> Iterator[StudyRow]:
        steps: dict[str, NDArray[np.float64] | float] = {f"{m:g}x": m * terms.crossover() for m in MULTIPLES}
        steps |= {"1": 1.0, "polyak": terms.polyak}
        for step, size in steps.items():
            yield self._row(seed, Setting("lwf", fisher, at, step), terms.confidence(size), seconds)
        if self.line_search:
            chosen, found, more = self._searched
            setting = Setting("lwf", fisher, at, "line_search")
            yield self._row(
                seed, setting, terms.confidence(found)[chosen], seconds + more, [self.kinds[i] for i in chosen]
            )
        yield self._row(seed, Setting("linear", fisher, at), terms.linear, seconds)
        yield self._row(seed, Setting("overlap", fisher, at), terms.quadratic, seconds)

    def _row(
        self,
        seed: int,
        setting: Setting,
        score: NDArray[np.float64],
        seconds: float,
        kinds: Sequence[str] | None = None,
    ) -> StudyRow:
        measured = detection(score.tolist(), kinds or self.kinds)
        return StudyRow(self.world, self.build, seed, setting, measured, seconds)

    @cached_property
    def _searched(self) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
        """The samples chosen, the steps (rows,), 0 for all others, and seconds for as many as there are in all."""
        draw = np.random.default_rng(self.build)
        chosen = np.sort(draw.permutation(len(self.kinds))[:SEARCHED_ROWS])
        # Steps do not depend on the posterior: any will do.
        flat = _zeros(dict(self.model.named_parameters()))
        anyone = LearningPosterior(flat, flat, {"model": self.fingerprint})
        scored, seconds = self._scored("lwf", anyone, rule="line_search", rows=chosen.tolist())
        steps = np.zeros(len(self.kinds))
        steps[chosen] = _column(scored, "step_size")
        return chosen, steps, seconds * len(self.kinds) / len(chosen)

    def base_model(self) -> Any:
        """At θ_base, anew."""
        return self.inputs.loader.base(self.inputs.sources.model)

    def _reference(self, seed: int) -> Any:
        """The base model after plain fine-tuning."""
        args = reference_args(arm_args(self.lwf, self.work, seed), self.work)
        trainer, _ = train_reference(self.base_model(), args, self.inputs.learning_rows, self.inputs.tokenizer)
        return trainer.model

    def _fisher(self, reference: Any, seed: int, fisher: str, at: str) -> tuple[dict[str, Tensor], float]:
        """The diagonal and the seconds it took; at θ_base it is estimated once, but for labels that are drawn."""
        if at == "base" and fisher in self._at_base:
            return self._at_base[fisher]
        config = PosteriorConfig(**FISHERS[fisher], batch_size=self.lwf.posterior_batch_size, seed=seed)
        start = time.process_time()
        model = self.model if at == "base" else reference
        found = estimate_fisher(model, self.inputs.learning_rows, config, draws=DRAWS.get(fisher, 1))
        result = found, time.process_time() - start
        if at == "base" and config.estimator != "sampled":
            self._at_base[fisher] = result
        return result

    def _scored(
        self,
        scorer: ScorerName,
        posterior: LearningPosterior | None,
        *,
        rule: StepSizeRule = "fixed",
        seed: int = 0,
        rows: Sequence[int] | None = None,
    ) -> tuple[Dataset, float]:
        config = ConfidenceConfig(scorer=scorer, step_size_rule=rule, batch_size=self.batch_size, seed=seed)
        start = time.process_time()
        knowledge = self.knowledge if rows is None else self.knowledge.select(rows)
        scored = score_confidence(self.model, knowledge, posterior, config, learning=self.inputs.learning_rows)
        return scored, time.process_time() - start


def _zeros(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}


def _column(rows: Dataset, name: str) -> NDArray[np.float64]:
    """(rows,) float64; 0 in place of what is null."""
    return np.nan_to_num(np.array(rows.with_format(None)[name], dtype=np.float64))
