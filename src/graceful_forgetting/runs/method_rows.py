"""The rows of a run as the method reads them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from datasets import Dataset

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.runs.inputs import RunInputs


class RunRows:
    """`MethodRows` of a run.

    Args:
        inputs: what the run reads.
        lwf: its settings.
    """

    def __init__(self, inputs: RunInputs, lwf: LWFConfig):
        self._inputs = inputs
        self._given = lwf.forget_answers == "given" or inputs.come_scored

    @property
    def learning(self) -> Dataset:
        """Tokenised learning examples."""
        return self._inputs.learning_rows

    @cached_property
    def forgetting(self) -> Dataset:
        """The forgetting prompts; with `forget_answers` 'given', or where they come scored, with their answers."""
        return self._inputs.forgetting_answers if self._given else self._inputs.forgetting_prompts

    @property
    def tokenizer(self) -> Any:
        """Of the base model, with the settings of the run."""
        return self._inputs.tokenizer

    @property
    def what_counts(self) -> Mapping[str, Any]:
        """As in the learning rows."""
        return self._inputs.what_counts

    def key(self, of: Literal["model", "tokenizer", "learning", "forgetting"]) -> Any:
        """Content hashes."""
        if of == "tokenizer":
            return self._inputs.tokenizer_fingerprint
        if of == "model":
            return self._inputs.base_fingerprint
        if of == "learning":
            return self._inputs.data_fingerprints["learning_train"]
        return self._inputs.forgetting_fingerprint(given=self._given)
