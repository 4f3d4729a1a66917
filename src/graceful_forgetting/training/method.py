"""The method, in its order, for a model in memory and for folders alike.

self-knowledge → reference run → posterior → scores → selection (→ trial runs) → training (→ fallback)

Every step is a stage: made once, from the stages that it reads, into a folder. `LWFTrainer`, `graceful run` and the
cells of a sweep differ in what they pass in: where rows come from (`MethodRows`), where models come from
(`MethodModels`) and where stages are kept (`RunDirectory`). The last two steps are those of `LWFTrainer`, on what
`stages_read` gives.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.baselines import BASELINES
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.confidence.losses import learning_loss
from graceful_forgetting.confidence.scorer import Need, reads_fisher
from graceful_forgetting.confidence.scorers import scorer_code, scorer_named
from graceful_forgetting.confidence.scoring import with_unmeasured
from graceful_forgetting.config import ConfidenceConfig, ElicitationConfig, LWFConfig, PosteriorConfig, SelectionConfig
from graceful_forgetting.config.confidence import OF_LOSSES
from graceful_forgetting.config.flat import flat_names
from graceful_forgetting.data import context_length, tokenize_dataset
from graceful_forgetting.data.turns import check_carried, check_said
from graceful_forgetting.elicitation import elicit_with_counts
from graceful_forgetting.posterior import LearningPosterior, estimate_posterior
from graceful_forgetting.posterior.learning_posterior import reference_mean
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.distributed import process_index
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.selection import SOURCE_INDEX, select_with_audit
from graceful_forgetting.training.preparation import (
    POSTERIOR_FOLDER,
    ROWS_FOLDER,
    SCORE_COLUMN,
    Preparation,
    much_selected,
    needs_elicitation,
    nothing_selected,
    read_preparation,
    without_answers,
    write_selection,
)
from graceful_forgetting.training.stages import RunDirectory, Stage
from graceful_forgetting.training.trial_stages import (
    candidates_stage,
    choice_stage,
    trial_detail,
    trial_stage_name,
)

# In the record of the posterior: the learning task's loss, nats per token.
BASE_LOSS = "learning_loss"
REFERENCE_LOSS = "reference_learning_loss"


class MethodRows(Protocol):
    """What is learned and what may be forgotten, as text and as tokens."""

    @property
    def learning(self) -> Dataset:
        """Learning examples, one a row: `input_ids`, `labels`."""

    @property
    def forgetting(self) -> Dataset | None:
        """Rows with `forgetting_task`, see `combine_forget_datasets`; none: nothing is unlearned."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With a pad token."""

    @property
    def what_counts(self) -> Mapping[str, Any]:
        """Keywords of `tokenize_dataset` by which answers count as learning rows do."""

    def key(self, of: Literal["model", "tokenizer", "learning", "forgetting"]) -> Any:
        """What tells this base model, tokenizer or these rows from others; None where nothing does."""


class MethodModels(Protocol):
    """Models at the weights that a stage needs, and the training runs of which the method is not the subject."""

    def answering(self) -> AbstractContextManager[Any]:
        """The model at θ_base, to generate with."""

    def base(self) -> AbstractContextManager[Any]:
        """The model at θ_base, with the parameters that are trained."""

    def trained(self, stage: Stage) -> AbstractContextManager[Any]:
        """The model after the training run that is in the folder of `stage`."""

    def plain(self, share: float) -> Stage:
        """Plain fine-tuning from θ_base, ended after this share of its updates."""

    def trial_settings(self) -> dict[str, Any]:
        """What a trial run depends on beside what it unlearns."""

    def trial(self, folder: Path, work: Path, preparation: Preparation | None) -> dict[str, Any]:
        """Fine-tuning that unlearns what `preparation` selects; counts to record, with `held_out_loss`."""


class Method:
    """The stages of one base model, learning task and pool of what may be forgotten.

    Args:
        args: settings; `args.seed` is that of random choices and of the trial runs.
        rows, models, directory: see above.
        announce: receives what a user should hear of.
        beside: another method of the same run, whose self-knowledge serves this one too.
        prefix: of the names of its stages, where the run has several methods.
    """

    def __init__(
        self,
        args: LWFConfig,
        rows: MethodRows,
        models: MethodModels,
        directory: RunDirectory,
        announce: Callable[[str], None],
        beside: "Method | None" = None,
        prefix: str = "",
    ):
        self.args = args
        self.rows = rows
        self.models = models
        self.directory = directory
        self.announce = announce
        self.beside = beside
        self.prefix = prefix
        self.choice_seed = args.seed
        self._stages: dict[str, Stage] = {}

    def _once(self, name: str, make: Callable[[], Stage]) -> Stage:
        if name not in self._stages:
            self._stages[name] = make()
        return self._stages[name]

    def _made(
        self, name: str, settings: dict[str, Any], inputs: list[Stage], build: Callable[[Path, str], dict[str, Any]]
    ) -> Stage:
        """The stage under the method's prefix, once."""
        return self._once(name, lambda: self.directory.stage(self.prefix + name, settings, inputs, build))

    # What the settings need ------------------------------------------------------------------------------------------

    @property
    def _baseline_needs(self) -> frozenset[BaselineNeed]:
        return frozenset() if self.args.baseline is None else BASELINES[self.args.baseline].needs

    @property
    def scorer_needs_posterior(self) -> bool:
        """Whether the scorer reads the learning task's posterior, and scores nothing that comes scored."""
        return Need.POSTERIOR in scorer_named(self.args.confidence_scorer).needs and not self._come_scored

    @property
    def _needs_fisher(self) -> bool:
        """Whether anything reads the Fisher information; of the posterior, the mean alone may be enough."""
        scorer = scorer_named(self.args.confidence_scorer).needs
        return reads_fisher(scorer) or BaselineNeed.POSTERIOR in self._baseline_needs

    @property
    def _come_scored(self) -> bool:
        return self.rows.forgetting is not None and SCORE_COLUMN in self.rows.forgetting.column_names

    # Stages ----------------------------------------------------------------------------------------------------------

    def self_knowledge(self) -> Stage:
        """The base model's own answers to the forgetting prompts, or the given ones; tokenised.

        Raises:
            ValueError: it answered, and fewer answers are left than a pass of an unlearning update takes.
        """
        if self.beside is not None:
            return self.beside.self_knowledge()
        pool = self.rows.forgetting
        assert pool is not None
        elicits = needs_elicitation(pool, self.args.forget_answers)

        @flat_names({"elicitation_": ElicitationConfig})
        def build(folder: Path, key: str) -> dict[str, Any]:
            with self.models.answering() as model:
                if not elicits:
                    knowledge = self._tokenised(context_length(model.config))
                    knowledge.save_to_disk(str(folder / ROWS_FOLDER))
                    return {"prompts": len(knowledge), "kept": len(knowledge)}
                prompts = without_answers(pool)
                check_carried(prompts, self.rows.tokenizer, "forget_dataset")
                knowledge, counts = elicit_with_counts(
                    model,
                    self.rows.tokenizer,
                    prompts,
                    self.args.elicitation_config(),
                    resume_dir=self.directory.work_folder("self_knowledge", key),
                    announce=self.announce,
                )
            knowledge.save_to_disk(str(folder / ROWS_FOLDER))
            write_json(folder / "counts.json", asdict(counts))
            detail = {"prompts": counts.prompts, "kept": counts.kept}
            detail |= {"duplicates": counts.duplicates, "empty": counts.empty, "tokens": counts.tokens}
            return detail | {"tokens_per_second": round(counts.tokens_per_second)}

        config = self.args.elicitation_config()
        settings = {
            **asdict(config),
            "answers": "self_generated" if elicits else "given",
            # Greedy answers do not depend on it.
            "seed": config.seed if config.temperature > 0 else None,
            "fingerprint": self.rows.key("model"),
            "tokenizer": self.rows.key("tokenizer"),
            "data": self.rows.key("forgetting"),
        }
        asked = len(pool) * config.num_samples_per_prompt
        if elicits:
            self._check_pool(asked, f"{len(pool)} prompts get {asked} answers")
        stage = self._once("self_knowledge", lambda: self.directory.stage("self_knowledge", settings, [], build))
        if elicits:
            self._check_pool(stage.detail["kept"], f"{stage.detail['kept']} of {asked} answers are left")
        return stage

    def _check_pool(self, answers: int, counted: str) -> None:
        batch = self.args.unlearn_batch_size
        if self.args.unlearn_every > 0 and answers < batch:
            raise ValueError(
                f"per_device_unlearn_batch_size={batch} is more than the self-knowledge has: {counted}. Give more "
                f"forgetting prompts, or set it to at most {answers}"
            )

    def _tokenised(self, max_length: int | None) -> Dataset:
        assert self.rows.forgetting is not None
        check_said(self.rows.forgetting, "forget_dataset")
        check_carried(self.rows.forgetting, self.rows.tokenizer, "forget_dataset")
        return tokenize_dataset(
            self.rows.forgetting,
            self.rows.tokenizer,
            max_length=max_length,
            argument="forget_dataset",
            **self.rows.what_counts,
        )

    def reference(self) -> Stage:
        """The run that gives θ*_L: plain fine-tuning, or its beginning."""
        return self._once("reference", lambda: self.models.plain(self.args.reference_share))

    def posterior(self) -> Stage:
        """θ*_L from the reference run and, if anything reads it, the diagonal Fisher information."""
        reference = self.reference()
        config, with_fisher = self.args.posterior_config(), self._needs_fisher
        # Scores that are rises of a loss are held against the fall of the learning task's own.
        with_losses = self.args.confidence_scorer in OF_LOSSES

        @flat_names({"posterior_": PosteriorConfig})
        def build(folder: Path, key: str) -> dict[str, Any]:
            def estimated(base: Any, tuned: Any) -> LearningPosterior:
                return estimate_posterior(
                    base,
                    tuned,
                    self.rows.learning,
                    config,
                    self.rows.tokenizer,
                    resume_dir=self.directory.work_folder(f"{self.prefix}posterior", key),
                    with_fisher=with_fisher,
                )

            def losses(which: str, model: Any) -> dict[str, float]:
                batch_size = self.args.per_device_train_batch_size
                return {which: learning_loss(model, self.rows.learning, batch_size)} if with_losses else {}

            # In memory one module is at θ_base or at θ*_L: of the other, what was kept of it stands in.
            if with_fisher and config.fisher_at == "base":
                with self.models.trained(reference) as model:
                    mean, found = reference_mean(model, config), losses(REFERENCE_LOSS, model)
                with self.models.base() as model:
                    posterior, found = estimated(model, mean), found | losses(BASE_LOSS, model)
            else:
                with self.models.base() as model:
                    fingerprint, found = fingerprint_model(model), losses(BASE_LOSS, model)
                with self.models.trained(reference) as model:
                    posterior, found = estimated(fingerprint, model), found | losses(REFERENCE_LOSS, model)
            posterior.metadata["reference_fraction"] = self.args.reference_share
            if process_index() == 0:
                posterior.save_pretrained(folder / POSTERIOR_FOLDER)
            found |= {"reference_fraction": self.args.reference_share}
            if not with_fisher:
                return {"estimator": "none", **found}
            return {"estimator": config.estimator, "samples": posterior.metadata["num_samples"], **found}

        settings = {**asdict(config), "with_fisher": with_fisher, "with_losses": with_losses}
        return self._made("posterior", settings, [reference], build)

    def learned(self) -> float | None:
        """Share of the learning task's loss at θ_base that is gone at θ*_L; none where it was not measured."""
        if not self.scorer_needs_posterior:
            return None
        found = self.posterior().detail
        return 1 - found[REFERENCE_LOSS] / found[BASE_LOSS] if found.get(BASE_LOSS) else None

    def scores(self) -> Stage:
        """The self-knowledge with a score a row, by default its forgetting confidence."""
        if self._come_scored:
            return self._once("scores", self._given_scores)
        return self._scored("scores", self.args.confidence_config(), self.scorer_needs_posterior)

    def _given_scores(self) -> Stage:
        def build(folder: Path, _: str) -> dict[str, Any]:
            scored = with_unmeasured(_without_source(self._tokenised(None)))
            scored.save_to_disk(str(folder / ROWS_FOLDER))
            return {"scored": len(scored)}

        settings = {"tokenizer": self.rows.key("tokenizer"), "data": self.rows.key("forgetting")}
        return self.directory.stage(f"{self.prefix}scores", settings, [], build)

    def interference(self) -> Stage | None:
        """What learning does to the loss of every piece of self-knowledge; none where the posterior is of a part."""
        if self.args.posterior_parameters not in ("trainable", "merged"):
            return None
        config = ConfidenceConfig(scorer="interference", batch_size=self.args.confidence_batch_size)
        return self._scored("effect_of_learning", config, True)

    def _scored(self, name: str, config: ConfidenceConfig, with_posterior: bool) -> Stage:
        knowledge = self.self_knowledge()
        posterior = self.posterior() if with_posterior else None
        with_learning = Need.LEARNING in scorer_named(config.scorer).needs

        @flat_names({"confidence_": ConfidenceConfig, "posterior_": PosteriorConfig})
        def build(folder: Path, key: str) -> dict[str, Any]:
            with self.models.base() as model:
                scored = score_confidence(
                    model,
                    read_rows(knowledge.path / ROWS_FOLDER),
                    None if posterior is None else LearningPosterior.from_pretrained(posterior.path / POSTERIOR_FOLDER),
                    config,
                    self.rows.tokenizer,
                    learning=self.rows.learning if with_learning else None,
                    resume_dir=self.directory.work_folder(self.prefix + name, key),
                    announce=self.announce,
                )
            scored = _without_source(scored)
            scored.save_to_disk(str(folder / ROWS_FOLDER))
            return {"scored": len(scored)}

        settings = asdict(config) | scorer_code(config.scorer)
        settings |= {"learning": self.rows.key("learning")} if with_learning else {}
        inputs = [knowledge] if posterior is None else [knowledge, posterior]
        return self._made(name, settings, inputs, build)

    def selection(self) -> Stage:
        """The samples to unlearn, by their scores or by trial runs."""
        scores = self.scores()
        config = self.args.selection_config()
        settings = asdict(config) | {"seed": self.choice_seed}
        settings["learned"] = self.learned() if config.strategy == "relative" else None
        if self.args.forget_trials != "none":
            return self._once("selection", lambda: self._by_trial(scores, settings))

        @flat_names({"forget_": SelectionConfig})
        def build(folder: Path, _: str) -> dict[str, Any]:
            scored = read_rows(scores.path / ROWS_FOLDER)
            selected, audit = select_with_audit(scored, **settings)
            write_selection(folder, selected, audit)
            if len(selected) == 0:
                self.announce(nothing_selected(audit))
            elif much := much_selected(audit):
                self.announce(much)
            return {"scored": len(scored), "chosen": len(selected)}

        return self._made("selection", settings, [scores], build)

    def _by_trial(self, scores: Stage, settings: Mapping[str, Any]) -> Stage:
        tried = candidates_stage(self.directory, scores, settings, self.args.forget_trials == "both")
        trials = {name: self._trial(number, name, tried[name]) for number, name in enumerate(tried)}
        return choice_stage(self.directory, tried, trials, self.announce)

    def _trial(self, number: int, name: str, candidate: Stage) -> Stage:
        """A run that unlearns a candidate; it records the held-out loss at its end."""
        read = self.stages_read(candidate)
        stage_name = trial_stage_name(number, name, self.choice_seed)

        def build(folder: Path, key: str) -> dict[str, Any]:
            work = self.directory.work_folder(stage_name, key)
            return trial_detail(name, lambda: self.models.trial(folder, work, read_preparation(read)))

        return self.directory.stage(stage_name, self.models.trial_settings(), list(read.values()), build)

    # What training reads ---------------------------------------------------------------------------------------------

    def stages_read(self, selection: Stage | None = None) -> dict[str, Stage]:
        """The stages that training with unlearning or a baseline reads, by name; none for a baseline that reads none.

        `selection`: another stage in place of that of the run.
        """
        stages: dict[str, Stage] = {}
        unlearns = self.rows.forgetting is not None and self.args.unlearn_every > 0
        if unlearns or BaselineNeed.SELF_KNOWLEDGE in self._baseline_needs:
            stages |= {"scores": self.scores(), "selection": selection or self.selection()}
        if BaselineNeed.POSTERIOR in self._baseline_needs or ("scores" in stages and self.scorer_needs_posterior):
            stages["posterior"] = self.posterior()
        return stages


def _without_source(rows: Dataset) -> Dataset:
    return rows.remove_columns(SOURCE_INDEX) if SOURCE_INDEX in rows.column_names else rows
