"""What is measured of a model beside the tasks of the run: a neutral text, and tasks of lm-evaluation-harness."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.data import context_length
from graceful_forgetting.evaluation.likelihood import text_bits_per_byte
from graceful_forgetting.evaluation.lm_eval import check_lm_eval_tasks, evaluate_with_lm_eval
from graceful_forgetting.runtime.hashes import fingerprint_json

# The opening of Kenneth Grahame's The Wind in the Willows (1908; its author died in 1932): public domain.
NEUTRAL_SAMPLE = Path(__file__).parent / "neutral.txt"
# Longer windows make each model's figure lower, so the window is the same for every model that can hold it.
_WINDOW = 512


class GeneralAbility:
    """The measurements that a recipe asks for.

    Args:
        neutral_text: a text file, or 'sample'; none: no text.
        lm_eval_tasks: names of the harness, or files and folders of tasks.
        lm_eval_limit: rows of each of these tasks; none: all.
        batch_size: rows per pass.

    Raises:
        FileNotFoundError, ValueError: no such text, or one that is empty or not UTF-8; no such task of the harness.
        ImportError: lm-evaluation-harness is asked for and not installed.
    """

    def __init__(
        self, neutral_text: str | None, lm_eval_tasks: Sequence[str] | None, lm_eval_limit: int | None, batch_size: int
    ):
        self.text = None if neutral_text is None else _read(neutral_text)
        self.lm_eval_tasks = list(lm_eval_tasks or [])
        self.lm_eval_limit = lm_eval_limit
        self.batch_size = batch_size
        if self.lm_eval_tasks:
            check_lm_eval_tasks(self.lm_eval_tasks)

    def settings(self) -> dict[str, Any]:
        """All that decides the result but the model: what is asked for, and the content of the files that say it."""
        files = [file for task in self.lm_eval_tasks for file in _files(Path(task).expanduser())]
        return {
            "neutral_text": None if self.text is None else fingerprint_json(self.text),
            "lm_eval_tasks": self.lm_eval_tasks,
            "lm_eval_limit": self.lm_eval_limit,
            "lm_eval_files": [fingerprint_json(file.read_text(encoding="utf-8")) for file in files],
        }

    def measure(
        self,
        model: PreTrainedModel | PeftModel,
        processing_class: PreTrainedTokenizerBase,
        *,
        in_turns: bool = False,
        system_prompt: str | None = None,
    ) -> dict[str, float | dict[str, dict[str, float]] | None]:
        """`neutral_bits_per_byte` and `lm_eval` of one model, as `TrainingRunResult` has them.

        The harness asks through the chat template where `in_turns`; the text is read as it is.
        """
        bits = self.neutral_bits_per_byte(model, processing_class)
        scores: dict[str, dict[str, float]] = {}
        if self.lm_eval_tasks:
            scores = evaluate_with_lm_eval(
                model,
                processing_class,
                self.lm_eval_tasks,
                limit=self.lm_eval_limit,
                batch_size=self.batch_size,
                in_turns=in_turns,
                system_prompt=system_prompt,
            )
        return {"neutral_bits_per_byte": bits, "lm_eval": scores}

    def neutral_bits_per_byte(
        self, model: PreTrainedModel | PeftModel, processing_class: PreTrainedTokenizerBase
    ) -> float | None:
        """Of the neutral text; none where the recipe names none."""
        if self.text is None:
            return None
        context = context_length(model.config) or _WINDOW
        return text_bits_per_byte(
            model,
            processing_class,
            self.text,
            window=min(context, _WINDOW),
            batch_size=self.batch_size,
        )


def _read(name: str) -> str:
    path = NEUTRAL_SAMPLE if name == "sample" else Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"neutral_text={name!r}: there is no such file; name a text file, or 'sample'")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"neutral_text={name!r} is not UTF-8 text ({error})") from error
    if not text.strip():
        raise ValueError(f"neutral_text={name!r} is empty")
    return text


def _files(path: Path) -> list[Path]:
    """The files that a path among `lm_eval_tasks` stands for; none for a name."""
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.suffix in (".yaml", ".jsonl"))
    return [path] if path.is_file() else []
