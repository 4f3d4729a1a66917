"""The whole method as stages of a run directory; each stage asks for those that it reads."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datasets import load_from_disk
from transformers import TrainerCallback
from trl import SFTConfig

from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.baselines import BASELINES
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.confidence.scorer import Need
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.config import ConfidenceConfig, LWFConfig, changed
from graceful_forgetting.runtime.distributed import process_index
from graceful_forgetting.elicitation import elicit_with_counts
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.examination import examination_settings, examine
from graceful_forgetting.evaluation.general_ability import GeneralAbility
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.results.provenance import public_settings
from graceful_forgetting.runs.recipe_checks import check_inputs, check_recipe
from graceful_forgetting.runs.stage_settings import (
    UNLEARNING_PREFIXES,
    learning_settings,
    settings_of,
)
from graceful_forgetting.runs.stages import RunDirectory, Stage
from graceful_forgetting.runs.stored_preparation import stored_preparation
from graceful_forgetting.runs.training import arm_args, run_training
from graceful_forgetting.runs.trial_stages import (
    candidates_stage,
    choice_stage,
    trial_detail,
    trial_stage_name,
    write_selection,
)
from graceful_forgetting.runtime.fingerprint import fingerprint_json
from graceful_forgetting.training.fisher_readers import needs_fisher
from graceful_forgetting.posterior import LearningPosterior, estimate_posterior
from graceful_forgetting.training.preparation import nothing_selected
from graceful_forgetting.posterior.reference import stopping_after
from graceful_forgetting.selection import select_with_audit
from graceful_forgetting.training.trials import trial_args

logger = logging.getLogger(__name__)


class Pipeline:
    """One run: the stages by name, made on demand and at most once a process.

    Args:
        run: what the run is about.
        lwf: settings of the method and of training; `output_dir` is the run directory.
        model: which model.
        announce: receives one line a stage.
        directory: where the stages are; none: `lwf.output_dir`.
        inputs: data and models that were read before; none: those of the recipe.
        force: make every stage anew, whatever the run directory holds.

    Raises:
        ValueError, FileNotFoundError: bad arguments, before any long work starts.
    """

    def __init__(
        self,
        run: RunArguments,
        lwf: LWFConfig,
        model: ModelArguments,
        announce: Callable[[str], None] = logger.info,
        directory: RunDirectory | None = None,
        inputs: RunInputs | None = None,
        force: bool = False,
    ):
        self.run = run
        self.lwf = lwf
        self.model = model
        self.announce = announce
        check_recipe(lwf)
        self.general_ability = GeneralAbility(
            run.neutral_text, run.lm_eval_tasks, run.eval_limit, run.evaluation_batch_size
        )
        self.inputs = inputs or RunInputs(run, lwf, model)
        check_inputs(run, lwf, self.inputs, self._holds_out)
        self.directory = directory or RunDirectory(lwf.output_dir, force=force, announce=announce)
        self.seeds = [lwf.seed + offset for offset in range(run.num_seeds)]
        self._stages: dict[str, Stage] = {}

    def _settings(self, *prefixes: str) -> dict[str, Any]:
        return settings_of(self.lwf, *prefixes)

    def _learning_settings(self) -> dict[str, Any]:
        return learning_settings(self.lwf, self.model)

    def _once(self, name: str, make: Callable[[], Stage]) -> Stage:
        if name not in self._stages:
            self._stages[name] = make()
        return self._stages[name]

    # Stages ----------------------------------------------------------------------------------------------------------

    def plain(self, seed: int) -> Stage:
        """Plain fine-tuning of the base model; with the first seed it is also the reference run."""
        return self._plain_arm("plain", self.inputs.sources.model, self.inputs.base_fingerprint, seed)

    def reference(self) -> Stage:
        """Where the learning task's posterior is estimated: the first plain run, or a part of it run on its own."""
        seed, fraction = self.seeds[0], self.lwf.reference_share
        if fraction == 1:
            return self.plain(seed)
        settings = {**self._plain_settings(self.inputs.base_fingerprint, seed), "fraction": fraction}
        load = partial(self.inputs.loader.trainable, self.inputs.sources.model, seed)
        name = f"reference/seed-{seed}"
        return self._once(name, lambda: self._training_stage(name, settings, [], load, seed, None))

    def never_knew(self, seed: int) -> Stage:
        """Plain fine-tuning of the model that never knew what gets in the way."""
        model, fingerprint = self.inputs.sources.never_knew, self.inputs.never_knew_fingerprint
        assert model is not None
        assert fingerprint is not None
        return self._plain_arm("never_knew", model, fingerprint, seed)

    def scratch(self, seed: int) -> Stage:
        """Plain training of the base model's architecture from fresh weights."""
        return self._plain_arm("scratch", self.inputs.sources.model, self.inputs.base_fingerprint, seed)

    def _plain_arm(self, arm: str, model: str, fingerprint: dict[str, Any], seed: int) -> Stage:
        load = self.inputs.loader.scratch if arm == "scratch" else self.inputs.loader.trainable
        name = f"{arm}/seed-{seed}"
        settings = self._plain_settings(fingerprint, seed)
        return self._once(
            name, lambda: self._training_stage(name, settings, [], partial(load, model, seed), seed, None)
        )

    def _plain_settings(self, fingerprint: dict[str, Any], seed: int) -> dict[str, Any]:
        return {
            **self._learning_settings(),
            "seed": seed,
            "fingerprint": fingerprint,
            "data": self.inputs.data_fingerprints["learning_train"],
        }

    def self_knowledge(self) -> Stage:
        """The base model's answers to the forgetting prompts."""

        def build(folder: Path, key: str) -> dict[str, Any]:
            if self.lwf.forget_answers == "given":
                given = self.inputs.given_self_knowledge
                given.save_to_disk(str(folder / "rows"))
                return {"prompts": len(given), "kept": len(given)}
            rows, counts = elicit_with_counts(
                self.inputs.loader.base(self.inputs.sources.model),
                self.inputs.tokenizer,
                self.inputs.forgetting_prompts,
                self.lwf.elicitation_config(),
                resume_dir=self.directory.work_folder("self_knowledge", key),
                announce=self.announce,
            )
            rows.save_to_disk(str(folder / "rows"))
            write_json(folder / "counts.json", asdict(counts))
            detail = {"prompts": counts.prompts, "kept": counts.kept}
            detail |= {"duplicates": counts.duplicates, "empty": counts.empty, "tokens": counts.tokens}
            return detail | {"tokens_per_second": round(counts.tokens_per_second)}

        settings = {
            **self._settings("elicitation_"),
            "answers": self.lwf.forget_answers or "self_generated",
            # Greedy answers do not depend on it.
            "seed": self.lwf.seed if self.lwf.elicitation_do_sample else None,
            "fingerprint": self.inputs.base_fingerprint,
            "data": self.inputs.forgetting_fingerprint(given=self.lwf.forget_answers == "given"),
        }
        return self._once("self_knowledge", lambda: self.directory.stage("self_knowledge", settings, [], build))

    def posterior(self) -> Stage:
        """θ*_L from the first plain run and, if anything reads it, the diagonal Fisher information."""
        reference = self.reference()
        with_fisher = needs_fisher(self.lwf)

        def build(folder: Path, key: str) -> dict[str, Any]:
            base = self.inputs.loader.trainable(self.inputs.sources.model, self.seeds[0])
            model = self.inputs.loader.finished(self.inputs.sources.model, reference.path, trainable=True)
            posterior = estimate_posterior(
                base,
                model,
                self.inputs.learning_rows,
                self.lwf.posterior_config(),
                self.inputs.tokenizer,
                resume_dir=self.directory.work_folder("posterior", key),
                with_fisher=with_fisher,
            )
            posterior.metadata["reference_fraction"] = self.lwf.reference_share
            if process_index() == 0:
                posterior.save_pretrained(folder / "posterior")
            if not with_fisher:
                return {"estimator": "none"}
            return {"estimator": self.lwf.posterior_estimator, "samples": posterior.metadata["num_samples"]}

        settings = {**self._settings("posterior_"), "seed": self.lwf.seed, "with_fisher": with_fisher}
        return self._once("posterior", lambda: self.directory.stage("posterior", settings, [reference], build))

    def scores(self) -> Stage:
        """Score of every piece of self-knowledge, by default its forgetting confidence."""
        settings = {**self._settings("confidence_"), "seed": self.lwf.seed}
        return self._scored("scores", self.lwf.confidence_config(), settings, self.needs_posterior)

    def interference(self) -> Stage | None:
        """What learning does to the loss of every piece of self-knowledge; none where the posterior is of a part."""
        if self.lwf.posterior_parameters not in ("trainable", "merged"):
            return None
        batch_size, shard_size = self.lwf.confidence_batch_size, self.lwf.confidence_shard_size
        config = ConfidenceConfig(scorer="interference", batch_size=batch_size, shard_size=shard_size)
        return self._scored("interference", config, asdict(config), True)

    def _scored(self, name: str, config: ConfidenceConfig, settings: dict[str, Any], with_posterior: bool) -> Stage:
        knowledge = self.self_knowledge()
        posterior = self.posterior() if with_posterior else None
        with_learning = Need.LEARNING in SCORERS[config.scorer].needs
        if with_learning:
            settings = {**settings, "learning": self.inputs.data_fingerprints["learning_train"]}

        def build(folder: Path, key: str) -> dict[str, Any]:
            scored = score_confidence(
                self.inputs.loader.trainable(self.inputs.sources.model, self.seeds[0]),
                load_from_disk(str(knowledge.path / "rows")),
                None if posterior is None else LearningPosterior.from_pretrained(posterior.path / "posterior"),
                config,
                self.inputs.tokenizer,
                learning=self.inputs.learning_rows if with_learning else None,
                resume_dir=self.directory.work_folder(name, key),
                announce=self.announce,
            )
            scored.save_to_disk(str(folder / "rows"))
            return {"scored": len(scored)}

        inputs = [knowledge] if posterior is None else [knowledge, posterior]
        return self._once(name, lambda: self.directory.stage(name, settings, inputs, build))

    @property
    def needs_posterior(self) -> bool:
        """Whether the scorer reads the learning task's posterior."""
        return Need.POSTERIOR in SCORERS[self.lwf.confidence_scorer].needs

    def selection(self, seed: int | None = None) -> Stage:
        """The samples to unlearn; `seed`: of strategy 'random' and of trial runs, none for that of the run."""
        scores = self.scores()
        settings = asdict(self.lwf.selection_config()) | ({} if seed is None else {"seed": seed})
        if self.lwf.forget_trials != "none":
            return self._once("selection", lambda: self._by_trial(self.seeds[0] if seed is None else seed, settings))

        def build(folder: Path, _: str) -> dict[str, Any]:
            scored = load_from_disk(str(scores.path / "rows"))
            selected, audit = select_with_audit(scored, **settings)
            write_selection(folder, selected, audit)
            if len(selected) == 0:
                self.announce(nothing_selected(audit))
            return {"scored": len(scored), "chosen": len(selected)}

        return self._once("selection", lambda: self.directory.stage("selection", settings, [scores], build))

    def _by_trial(self, seed: int, settings: dict[str, Any]) -> Stage:
        """The samples to unlearn, as trial runs with this seed show."""
        tried = candidates_stage(self.directory, self.scores(), settings, self.lwf.forget_trials == "both")
        trials = {
            name: self._trial(name, trial_stage_name(number, name, seed), candidate, seed)
            for number, (name, candidate) in enumerate(tried.items())
        }
        return choice_stage(self.directory, tried, trials, self.announce)

    def _trial(self, name: str, stage_name: str, candidate: Stage, seed: int) -> Stage:
        """A run that unlearns candidate `name`; it records the held-out loss at its end."""
        preparation = self.preparation_stages(candidate)
        settings = {
            **self._unlearning_settings(seed),
            "held_out": self.inputs.data_fingerprints["learning_validation"],
        }

        def build(folder: Path, key: str) -> dict[str, Any]:
            args = arm_args(self.lwf, self.directory.work_folder(stage_name, key), seed)

            def train() -> dict[str, Any]:
                return run_training(
                    folder,
                    self.inputs.loader.trainable(self.inputs.sources.model, seed),
                    trial_args(args, args.output_dir),
                    self.inputs.learning_rows,
                    self.inputs.held_out_rows,
                    self.inputs.tokenizer,
                    plain=False,
                    preparation=stored_preparation(preparation),
                    keep_model=False,
                    measure_held_out=True,
                )

            return trial_detail(name, train)

        return self.directory.stage(stage_name, settings, list(preparation.values()), build)

    def lwf_run(self, seed: int) -> Stage:
        """Fine-tuning with unlearning of the selected samples, or with a baseline."""
        name, preparation = f"lwf/seed-{seed}", self.preparation_stages()
        settings = self._unlearning_settings(seed)
        if self._may_fall_back:
            preparation["plain"] = self.plain(seed)
            settings["held_out"] = self.inputs.data_fingerprints["learning_validation"]
        return self._once(
            name,
            lambda: self._training_stage(
                name,
                settings,
                list(preparation.values()),
                partial(self.inputs.loader.trainable, self.inputs.sources.model, seed),
                seed,
                preparation,
            ),
        )

    def _unlearning_settings(self, seed: int) -> dict[str, Any]:
        return {
            **self._learning_settings(),
            **self._settings(*UNLEARNING_PREFIXES),
            "seed": seed,
            "fingerprint": self.inputs.base_fingerprint,
            "data": self.inputs.data_fingerprints["learning_train"],
        }

    @property
    def _holds_out(self) -> bool:
        """Whether there are held-out learning rows to judge by; never the rows that the run is tested on."""
        return self.run.world_split == "test" and self.inputs.sources.learning_validation is not None

    @property
    def _may_fall_back(self) -> bool:
        """Whether the result is compared with plain fine-tuning."""
        return self.lwf.guard_fallback and self.lwf.unlearn_every > 0 and self._holds_out

    def preparation_stages(self, selection: Stage | None = None) -> dict[str, Stage]:
        """The stages that unlearning or the baseline reads, by name; none for a baseline that reads none.

        `selection`: another stage in place of that of the run.
        """
        needs = frozenset() if self.lwf.baseline is None else BASELINES[self.lwf.baseline].needs
        stages: dict[str, Stage] = {}
        if self.lwf.unlearn_every > 0 or BaselineNeed.SELF_KNOWLEDGE in needs:
            stages |= {"scores": self.scores(), "selection": selection or self.selection()}
        if BaselineNeed.POSTERIOR in needs:
            stages["posterior"] = self.posterior()
        return stages

    def _training_stage(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Stage],
        load: Callable[[], Any],
        seed: int,
        preparation: Mapping[str, Stage] | None,
    ) -> Stage:
        def build(folder: Path, key: str) -> dict[str, Any]:
            args = arm_args(self.lwf, self.directory.work_folder(name, key), seed)
            return self._train(name, folder, load(), args, preparation)

        return self.directory.stage(name, settings, inputs, build)

    def _train(
        self, name: str, folder: Path, model: Any, args: LWFConfig, preparation: Mapping[str, Stage] | None
    ) -> dict[str, Any]:
        """Train `model` for stage `name`, plainly without `preparation`; returns the counts that the stage records."""
        return self._run_training(folder, model, args, preparation, callbacks=self._callbacks(name))

    def _callbacks(self, name: str) -> list[TrainerCallback]:
        """What a training stage needs beside its settings."""
        return stopping_after(self.lwf.reference_share) if name.startswith("reference/") else []

    def _run_training(
        self,
        folder: Path,
        model: Any,
        args: LWFConfig,
        preparation: Mapping[str, Stage] | None,
        **keywords: Any,
    ) -> dict[str, Any]:
        stages = preparation or {}
        args = changed(args, guard_fallback="plain" in stages)
        plain = None
        if args.guard_fallback:
            plain = self.inputs.loader.finished(self.inputs.sources.model, stages["plain"].path, trainable=True)
        return run_training(
            folder,
            model,
            args,
            self.inputs.learning_rows,
            self.inputs.held_out_rows,
            self.inputs.tokenizer,
            plain=preparation is None,
            preparation=stored_preparation(stages, plain),
            **keywords,
        )

    def evaluation(self, arm: str, seed: int | None) -> Stage:
        """Accuracy and likelihood of one model on every task that has test rows with answers."""
        trained = None if seed is None else self.arm(arm, seed)
        name = f"evaluation/{arm}" + ("" if seed is None else f"-seed-{seed}")
        base = self.inputs.sources.never_knew if arm == "never_knew" else self.inputs.sources.model
        assert base is not None

        def build(folder: Path, _: str) -> dict[str, Any]:
            loader = self.inputs.loader
            model = loader.base(base) if trained is None else loader.finished(base, trained.path)
            return examine(folder, model, self.run, self.inputs, self.general_ability, name)

        settings = {
            **examination_settings(self.run, self.inputs, self.general_ability),
            "fingerprint": self.inputs.base_fingerprint if trained is None else None,
        }
        inputs = [] if trained is None else [trained]
        return self._once(name, lambda: self.directory.stage(name, settings, inputs, build))

    def arm(self, arm: str, seed: int) -> Stage:
        """The trained model of an arm."""
        return {"plain": self.plain, "lwf": self.lwf_run, "never_knew": self.never_knew}[arm](seed)

    def train(self) -> None:
        """Every training run of every arm."""
        for arm, seed in self.arms:
            if seed is not None:
                self.arm(arm, seed)

    def evaluate(self) -> None:
        """The evaluation of every model of the run."""
        for arm, seed in self.arms:
            self.evaluation(arm, seed)

    @cached_property
    def arms(self) -> list[tuple[str, int | None]]:
        """Every model of the run as (arm, seed)."""
        trained = ["plain", "lwf"] + ([] if self.inputs.sources.never_knew is None else ["never_knew"])
        return [("base", None), *((arm, seed) for arm in trained for seed in self.seeds)]

    def recipe(self) -> dict[str, Any]:
        """Every setting of the run: all of ours, and those of `SFTConfig` that differ from its defaults."""
        inherited = {f.name: f.default for f in fields(SFTConfig)}
        others = {
            f.name: getattr(self.lwf, f.name)
            for f in fields(self.lwf)
            if f.name not in inherited or getattr(self.lwf, f.name) != inherited[f.name]
        }
        return public_settings({**asdict(self.run), **asdict(self.model), **others})

    def fingerprints(self) -> tuple[str, dict[str, str], str | None]:
        """Of the base model, the data sets, and the posterior (none where the scorer needs none)."""
        posterior = self.posterior().key if self.needs_posterior else None
        return fingerprint_json(self.inputs.base_fingerprint), self.inputs.data_fingerprints, posterior
