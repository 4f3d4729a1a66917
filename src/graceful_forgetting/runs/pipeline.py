"""A run: the stages of the method in a run directory, the arms beside it, and what is measured of each."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import SFTConfig

from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.config import LWFConfig, as_arm, changed
from graceful_forgetting.evaluation.general_ability import GeneralAbility
from graceful_forgetting.posterior.reference import stopping_after
from graceful_forgetting.results.arms import OWN
from graceful_forgetting.runs.arguments import RunArguments, other_methods
from graceful_forgetting.runs.examination import examination_settings, examine
from graceful_forgetting.runs.input_checks import check_inputs, defeating_settings, holds_out
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runs.method_rows import RunRows
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runs.precision import check_precision
from graceful_forgetting.runs.stage_settings import UNLEARNING_PREFIXES, learning_settings, settings_of
from graceful_forgetting.runs.training import arm_args, run_training
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.runtime.secrets import public_settings
from graceful_forgetting.training.checks import baseline_needs
from graceful_forgetting.training.method import Method
from graceful_forgetting.training.preparation import Preparation, read_preparation, trained_weights
from graceful_forgetting.training.stages import RunDirectory, Stage, copy_stage
from graceful_forgetting.training.topology import check_topology, requested_topology
from graceful_forgetting.training.trials import trial_args
from graceful_forgetting.unlearning.objectives import objective_code

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
        others: named methods to train as arms of their own, beside that of `lwf`; they share its other settings.

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
        others: Sequence[str] = (),
    ):
        self.run = run
        self.lwf = lwf
        self.model = model
        self.announce = announce
        check_topology(lwf, *requested_topology(lwf))
        check_precision(lwf, model)
        settings = {name: changed(lwf, **as_arm(name)) for name in other_methods(others, lwf)}
        self.general_ability = GeneralAbility(
            run.neutral_text, run.lm_eval_tasks, run.eval_limit, run.evaluation_batch_size
        )
        self.inputs = inputs or RunInputs(run, lwf, model)
        check_inputs(run, lwf, model, self.inputs)
        for text in defeating_settings(lwf, self.inputs):
            announce(text)
        if settings and self.inputs.come_scored:
            raise ValueError(
                f"compare_with {' '.join(settings)}: the forgetting data comes with scores, by which every method "
                "would unlearn the same; leave it out, or remove the column forgetting_confidence"
            )
        self.seeds = [lwf.seed + offset for offset in range(run.num_seeds)]
        self._others = settings
        self.use(directory or RunDirectory(lwf.output_dir, force=force, announce=announce))

    def use(self, directory: RunDirectory) -> None:
        """Take and make stages there, none of which is known yet."""
        self.directory, self._stages, self._ends = directory, dict[str, Stage](), dict[str, float]()
        rows = RunRows(self.inputs, self.lwf)
        self.method = Method(self.lwf, rows, self, directory, self.announce)
        # Arm -> its method: the run's own under `OWN`, and further ones under their names.
        self.methods: dict[str, Method] = {OWN: self.method}
        for name, args in self._others.items():
            self.methods[name] = Method(args, rows, self, directory, self.announce, self.method, f"{name}/")

    def _learning_settings(self) -> dict[str, Any]:
        return {**learning_settings(self.lwf, self.model), "tokenizer": self.inputs.tokenizer_fingerprint}

    def _once(self, name: str, make: Callable[[], Stage]) -> Stage:
        if name not in self._stages:
            self._stages[name] = make()
        return self._stages[name]

    # Stages ----------------------------------------------------------------------------------------------------------

    def plain_arm(self, seed: int) -> Stage:
        """Plain fine-tuning of the base model; with the first seed it may be the reference run too."""
        return self._plain_arm("plain", self.inputs.sources.model, self.inputs.base_fingerprint, seed)

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
        name, settings = f"{arm}/seed-{seed}", self._plain_settings(fingerprint, seed)
        return self._once(
            name, lambda: self._training_stage(name, settings, [], partial(load, model, seed), seed, None, self.lwf)
        )

    def _plain_settings(self, fingerprint: dict[str, Any], seed: int) -> dict[str, Any]:
        return {
            **self._learning_settings(),
            "seed": seed,
            "fingerprint": fingerprint,
            "data": self.inputs.data_fingerprints["learning_train"],
        }

    def lwf_run(self, seed: int, arm: str = OWN) -> Stage:
        """Fine-tuning with unlearning of the samples that the method of the arm selects, or with a baseline."""
        method = self.methods[arm]
        name, preparation = f"{arm}/seed-{seed}", method.stages_read()
        settings = self._unlearning_settings(method.args, seed)
        chosen = preparation["selection"].detail["chosen"] if "selection" in preparation else None
        # Such a run is plain fine-tuning, and is not trained a second time.
        if chosen == 0 and method.args.baseline is None:
            read = [preparation["selection"]]
            return self._once(name, lambda: self._copy(name, self.plain_arm(seed), read, unlearning_updates=0))
        if self._may_fall_back(method.args):
            preparation["plain"] = self.plain_arm(seed)
        if "plain" in preparation or BaselineNeed.HELD_OUT in baseline_needs(method.args):
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
                method.args,
            ),
        )

    def _copy(self, name: str, original: Stage, inputs: list[Stage], **counts: int) -> Stage:
        """A training run or an evaluation that would end as `original` has, in a folder of its own; `counts` are those
        that the original does not record.
        """

        def build(folder: Path, _: str) -> dict[str, Any]:
            copy_stage(original, folder)
            return {**original.detail, **counts, "same_as": original.name}

        return self.directory.stage(name, {"copy": True}, [original, *inputs], build)

    def _unlearning_settings(self, args: LWFConfig, seed: int) -> dict[str, Any]:
        return {
            **self._plain_settings(self.inputs.base_fingerprint, seed),
            **settings_of(args, *UNLEARNING_PREFIXES),
            **objective_code(args),
        }

    def _may_fall_back(self, args: LWFConfig) -> bool:
        """Whether the result is compared with plain fine-tuning."""
        return args.guard_fallback and args.unlearn_every > 0 and holds_out(self.run, self.inputs)

    def _training_stage(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Stage],
        load: Callable[[], Any],
        seed: int,
        preparation: Mapping[str, Stage] | None,
        method: LWFConfig,
    ) -> Stage:
        def build(folder: Path, key: str) -> dict[str, Any]:
            args = arm_args(method, self.directory.work_folder(name, key), seed)
            return self._train(name, folder, load(), args, preparation)

        return self.directory.stage(name, settings, inputs, build)

    def _train(
        self, name: str, folder: Path, model: Any, args: LWFConfig, preparation: Mapping[str, Stage] | None
    ) -> dict[str, Any]:
        """Train `model` for stage `name`, plainly without `preparation`; returns the counts that the stage records."""
        return self._run_training(folder, model, args, preparation, callbacks=self._callbacks(name))

    def _callbacks(self, name: str) -> list[TrainerCallback]:
        """What a training stage needs beside its settings."""
        return stopping_after(self._ends[name]) if name in self._ends else []

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
        prepared = read_preparation(stages)
        if args.guard_fallback:
            assert prepared is not None
            with self.trained(stages["plain"]) as model_after:
                prepared.plain = trained_weights(model_after)
        return run_training(
            folder,
            model,
            args,
            self.inputs.learning_rows,
            self.inputs.held_out_rows,
            self.inputs.tokenizer,
            plain=preparation is None,
            preparation=prepared,
            **keywords,
        )

    # As a source of models for the method -----------------------------------------------------------------------------

    @contextmanager
    def answering(self) -> Iterator[Any]:
        """The base model as it is in its folder."""
        yield self.inputs.loader.base(self.inputs.sources.model)

    @contextmanager
    def base(self) -> Iterator[Any]:
        """The base model at the start of fine-tuning, with the adapter of the first seed where one is trained."""
        yield self.inputs.loader.trainable(self.inputs.sources.model, self.seeds[0])

    @contextmanager
    def trained(self, stage: Stage) -> Iterator[Any]:
        """The model in the folder of a training stage."""
        yield self.inputs.loader.finished(self.inputs.sources.model, stage.path, trainable=True)

    def plain(self, share: float) -> Stage:
        """Plain fine-tuning with the first seed: the arm itself, or the beginning of it run on its own."""
        seed = self.seeds[0]
        if share == 1:
            return self.plain_arm(seed)
        settings = {**self._plain_settings(self.inputs.base_fingerprint, seed), "fraction": share}
        load = partial(self.inputs.loader.trainable, self.inputs.sources.model, seed)
        # Methods with one share have it together, under the name of the first of them.
        owner = next(method for method in self.methods.values() if method.args.reference_share == share)
        name = f"{owner.prefix}reference/seed-{seed}"
        self._ends[name] = share
        return self._once(name, lambda: self._training_stage(name, settings, [], load, seed, None, self.lwf))

    def trial_settings(self) -> dict[str, Any]:
        """Those of a run that unlearns, and the rows that trials are judged by."""
        return {
            **self._unlearning_settings(self.lwf, self.method.choice_seed),
            "held_out": self.inputs.data_fingerprints["learning_validation"],
        }

    def trial(self, folder: Path, work: Path, preparation: Preparation | None) -> dict[str, Any]:
        """A trial run from the base model in its folder; of its model nothing is kept."""
        seed = self.method.choice_seed
        args = arm_args(self.lwf, work, seed)
        return run_training(
            folder,
            self.inputs.loader.trainable(self.inputs.sources.model, seed),
            trial_args(args, args.output_dir),
            self.inputs.learning_rows,
            self.inputs.held_out_rows,
            self.inputs.tokenizer,
            plain=False,
            preparation=preparation,
            keep_model=False,
            measure_held_out=True,
        )

    def evaluation(self, arm: str, seed: int | None) -> Stage:
        """Accuracy and likelihood of one model on every task that has test rows with answers."""
        trained = None if seed is None else self.arm(arm, seed)
        name = f"evaluation/{arm}" + ("" if seed is None else f"-seed-{seed}")
        if trained is not None and "same_as" in trained.detail:
            return self._once(name, lambda: self._copy(name, self.evaluation("plain", seed), [trained]))
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
        if arm in self.methods:
            return self.lwf_run(seed, arm)
        return {"plain": self.plain_arm, "never_knew": self.never_knew}[arm](seed)

    def train(self) -> None:
        """Every training run of every arm; what would stop those that unlearn stops the first one."""
        if self.lwf.unlearn_every > 0 and not self.inputs.come_scored:
            self.method.self_knowledge()
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
        trained = ["plain", *self.methods] + ([] if self.inputs.sources.never_knew is None else ["never_knew"])
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
        posterior = self.method.posterior().key if self.method.scorer_needs_posterior else None
        return fingerprint_json(self.inputs.base_fingerprint), self.inputs.data_fingerprints, posterior
