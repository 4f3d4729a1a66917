"""One cell: the stages of its recipe from the sweep's shared store, and its result file."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from graceful_forgetting.config import LWFConfig, changed
from graceful_forgetting.results.provenance import collect_provenance
from graceful_forgetting.results.result import GuardResult, TaskMetrics, TrialsResult
from graceful_forgetting.results.schema import dataclass_from_plain
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import Recipe, recipe_from_fields
from graceful_forgetting.runs.stage_settings import WITHOUT_EFFECT
from graceful_forgetting.runs.training import LOG_FILE, UNLEARNING_FILE, line_search_of
from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.runtime.internals import own_precision
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.sweeps.cell import CellResult, CellSelection, CellSplit, CurvePoint, ScoreSummary
from graceful_forgetting.sweeps.grid import Cell, CellSettings
from graceful_forgetting.sweeps.measurement import Examiner, LearningCurve
from graceful_forgetting.sweeps.scores import kinds_of, score_summary
from graceful_forgetting.training.stages import SharedStages, Stage

MEASURED_FILE = "measured.json"
CURVE_FILE = "curve.json"


class CellInputs:
    """The data and models of cells, and the tests of their models."""

    def __init__(self, inputs: RunInputs, run: RunArguments):
        self.inputs = inputs
        self._run = run
        self._examiners: dict[CellSplit, Examiner] = {}

    def tested_on(self, split: CellSplit) -> Literal["learning_test", "learning_validation"]:
        """The rows that the learning task is tested on: held-out ones of their own for trials, where there are any."""
        own = split == "validation" and self.inputs.sources.learning_validation is not None
        return "learning_validation" if own else "learning_test"

    def examiner(self, split: CellSplit) -> Examiner:
        """The tests of a cell's model."""
        if split not in self._examiners:
            sources = self.inputs.sources
            test_sets = dict(self.inputs.test_sets)
            if self.tested_on(split) == "learning_validation":
                assert sources.learning_validation is not None
                test_sets[sources.learning_name] = (sources.learning_validation, "learning", sources.learning_task)
            self._examiners[split] = Examiner(
                test_sets=test_sets,
                learning_task=sources.learning_name,
                processing_class=self.inputs.tokenizer,
                batch_size=self._run.evaluation_batch_size,
                max_new_tokens=self._run.eval_max_new_tokens,
            )
        return self._examiners[split]


class InputsCache:
    """The data and models that were read last, for the next cells that read the same."""

    def __init__(self, size: int = 4):
        self._size = size
        self._kept: dict[str, CellInputs] = {}

    def inputs(self, recipe: Recipe) -> CellInputs:
        """Those of a recipe, read if they are not kept."""
        run, lwf, model = recipe
        limits = (run.learning_limit, run.forgetting_limit, run.eval_limit)
        # The seed decides which rows a limit draws, and nothing else here.
        seed = None if limits == (None, None, None) else lwf.seed
        settings = [
            asdict(run),
            asdict(model),
            lwf.model_init_kwargs,
            lwf.completion_only_loss,
            lwf.assistant_only_loss,
            [lwf.eos_token, lwf.pad_token, lwf.chat_template_path],
            seed,
            lwf.max_length,
            lwf.trust_remote_code,
            str(lwf.device),
        ]
        key = fingerprint_json(settings)
        inputs = self._kept.pop(key, None) or CellInputs(RunInputs(run, lwf, model), run)
        self._kept[key] = inputs
        while len(self._kept) > self._size:
            del self._kept[next(iter(self._kept))]
        return inputs


class CellPipeline(Pipeline):
    """The stages of one cell. A run that forgets is measured while its model is in memory, whose weights are not kept.

    Args:
        cell: which.
        settings: of the sweep.
        cache: data and models read before.
        announce: receives one line a stage.
    """

    def __init__(self, cell: Cell, settings: CellSettings, cache: InputsCache, announce: Callable[[str], None]):
        seed = cell.seed if settings.reference_seed is None else settings.reference_seed
        recipe = recipe_from_fields(
            {**cell.fields, "seed": seed, "output_dir": str(settings.shared)}, where=str(cell.folder)
        )
        kept = cache.inputs(recipe)
        super().__init__(*recipe, announce, SharedStages(settings.shared, announce=announce), kept.inputs)
        self.cell = cell
        self.settings = settings
        self.method.choice_seed = cell.seed
        self._tested_on = kept.tested_on(cell.split)
        self.examiner = kept.examiner(cell.split)

    def _kept(self, name: str) -> bool:
        """Whether the weights of this training stage are kept: runs without forgetting serve every forgetting set."""
        return self.settings.keep_models or not name.startswith("lwf/")

    def _learning_settings(self) -> dict[str, Any]:
        own = {
            "every": self.settings.evaluate_every,
            "rows": self.settings.curve_rows,
            "max_new_tokens": self.run.eval_max_new_tokens,
            "data": self.inputs.data_fingerprints[self._tested_on],
        }
        return {**super()._learning_settings(), "curve": own}

    def _tests(self) -> dict[str, Any]:
        """What a measurement depends on beside the model."""
        known = self.inputs.data_fingerprints
        data = {name: value for name, value in known.items() if name.endswith("_test") and name != "learning_test"}
        return {
            "max_new_tokens": self.run.eval_max_new_tokens,
            "data": {**data, "learning": known[self._tested_on]},
            "neutral_text": self.general_ability.settings()["neutral_text"],
        }

    def _training_stage(self, name: str, settings: dict[str, Any], *arguments: Any) -> Stage:
        if not self._kept(name):
            settings = {**settings, "tests": self._tests()}
        return super()._training_stage(name, settings, *arguments)

    def measured(self) -> tuple[Stage, Stage]:
        """The cell's training stage, and the one with its `MEASURED_FILE`: a later one where the weights are kept."""
        arms = {
            "plain": self.plain_arm,
            "never_knew": self.never_knew,
            "scratch": self.scratch,
            "lwf": self.lwf_run,
        }
        trained = arms[self.cell.arm](self.cell.seed)
        return trained, self._measurement(trained) if self._kept(trained.name) else trained

    def _measurement(self, trained: Stage) -> Stage:
        """What is measured of a model whose weights are kept."""
        sources = self.inputs.sources
        base = sources.never_knew if trained.name.startswith("never_knew/") else sources.model
        assert base is not None

        def build(folder: Path, _: str) -> dict[str, Any]:
            model = self.inputs.loader.finished(base, trained.path)
            self._measure(folder, model)
            return {}

        return self.directory.stage(f"measured/{trained.name}", self._tests(), [trained], build)

    def _copy(self, name: str, original: Stage, inputs: list[Stage], **counts: int) -> Stage:
        """As in a run; where weights are not kept, what was logged and measured of the original without its weights."""
        if self._kept(name):
            return super()._copy(name, original, inputs, **counts)
        measured = self._measurement(original)

        def build(folder: Path, _: str) -> dict[str, Any]:
            for file in (original.path / LOG_FILE, original.path / UNLEARNING_FILE, original.path / CURVE_FILE):
                shutil.copy(file, folder)
            shutil.copy(measured.path / MEASURED_FILE, folder)
            return {**original.detail, **counts, "same_as": original.name}

        return self.directory.stage(name, {"copy": True}, [original, measured, *inputs], build)

    def _train(
        self, name: str, folder: Path, model: Any, args: LWFConfig, preparation: Mapping[str, Stage] | None
    ) -> dict[str, Any]:
        args = changed(args, disable_tqdm=True)
        curve = LearningCurve(
            self.examiner, self.settings.evaluate_every, self.settings.curve_rows, Path(args.output_dir, CURVE_FILE)
        )
        start = time.perf_counter()
        detail = self._run_training(
            folder,
            model,
            args,
            preparation,
            callbacks=[curve, *self._callbacks(name)],
            keep_model=self._kept(name),
        )
        detail["training_seconds"] = round(time.perf_counter() - start, 2)
        write_json(folder / CURVE_FILE, curve.points)
        if not self._kept(name):
            # As a model that is read from its folder is measured.
            with own_precision(model):
                self._measure(folder, model)
        return detail

    def _measure(self, folder: Path, model: Any) -> None:
        neutral = self.general_ability.neutral_bits_per_byte(model, self.inputs.tokenizer)
        write_json(folder / MEASURED_FILE, {**self.examiner.measured(model), "neutral_bits_per_byte": neutral})


def run_cell(
    cell: Cell, key: str, settings: CellSettings, cache: InputsCache, announce: Callable[[str], None]
) -> CellResult:
    """Make what is missing of a cell, and write its `result.json`.

    Raises:
        ValueError, FileNotFoundError: bad input, by the name of the argument.
        NonFiniteLossError: training failed.
    """
    pipeline = CellPipeline(cell, settings, cache, announce)
    stage, measurement = pipeline.measured()
    measured = read_json(measurement.path / MEASURED_FILE)
    read = pipeline.method.stages_read() if cell.arm == "lwf" else {}
    selection, scores = _unlearned(pipeline, stage) if "selection" in read else (None, None)
    with_posterior = "scores" in read and pipeline.method.scorer_needs_posterior
    result = CellResult(
        sweep=cell.sweep,
        learning=cell.learning,
        forgetting=cell.forgetting,
        setting=cell.setting,
        method=cell.method,
        arm=cell.arm,
        role=cell.role,
        seed=cell.seed,
        split=cell.split,
        position=list(cell.position),
        key=key,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config={name: value for name, value in pipeline.recipe().items() if name not in WITHOUT_EFFECT},
        provenance=collect_provenance(
            model_fingerprint=fingerprint_json(pipeline.inputs.base_fingerprint),
            data_fingerprints=pipeline.inputs.data_fingerprints,
            posterior_fingerprint=pipeline.method.posterior().key if with_posterior else None,
            seeds=[cell.seed],
        ),
        learning_rows=len(pipeline.inputs.learning_rows),
        learning_task=pipeline.examiner.learning_task,
        metrics={name: dataclass_from_plain(TaskMetrics, values, name) for name, values in measured["metrics"].items()},
        neutral_bits_per_byte=measured["neutral_bits_per_byte"],
        answers=measured["answers"],
        truth_ratios=measured["truth_ratios"],
        curve=[CurvePoint(**point) for point in read_json(stage.path / CURVE_FILE)],
        selection=selection,
        scores=scores,
        stages=pipeline.directory.results,
        line_search=line_search_of(read_json(stage.path / UNLEARNING_FILE)) if cell.arm == "lwf" else None,
    )
    result.save(Path(settings.output_dir) / cell.folder / "result.json")
    return result


def _unlearned(pipeline: CellPipeline, stage: Stage) -> tuple[CellSelection, ScoreSummary | None]:
    """What was chosen and what the scores say of it. The scores are read again; each stage is made once a process."""
    scored = read_rows(pipeline.method.scores().path / "rows")
    chosen = read_rows(pipeline.method.selection().path / "rows")["source_index"]
    trials = read_json(pipeline.method.selection().path / "selection.json").get("trials")
    kinds = kinds_of(scored, pipeline.inputs.sources.forgetting)
    tasks = scored["forgetting_task"]
    unlearning = read_json(stage.path / UNLEARNING_FILE)
    selection = CellSelection(
        scored=len(scored),
        chosen=len(chosen),
        chosen_by_task=dict(sorted(Counter(tasks[index] for index in chosen).items())),
        chosen_by_kind=dict(sorted(Counter(kind for index in chosen if (kind := kinds[index]) is not None).items())),
        unlearn_updates=unlearning["updates"],
        guard=GuardResult(**unlearning["guard"]),
        trials=None if trials is None else TrialsResult(**trials),
    )
    return selection, score_summary(scored, kinds, pipeline.lwf.confidence_scorer)
