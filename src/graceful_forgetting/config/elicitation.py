"""Settings of elicitation (stage 1 of the method)."""

from dataclasses import dataclass

from graceful_forgetting.config.fields import require, setting


@dataclass
class ElicitationConfig:
    """How the base model is asked for its own knowledge (stage 1 of the method).

    Every field is documented by its `help` metadata. Raises `ValueError` naming the field that is out of range.
    """

    batch_size: int = setting(16, "Prompts generated at once.")
    max_new_tokens: int = setting(64, "Longest completion, in tokens.")
    do_sample: bool = setting(False, "Sample completions instead of decoding greedily.")
    temperature: float = setting(1.0, "Softmax temperature; read only when sampling.")
    top_p: float = setting(1.0, "Nucleus mass kept when sampling; 1 keeps the whole distribution.")
    seed: int = setting(42, "Seed of sampling; greedy decoding does not use it.")
    cache_dir: str | None = setting(
        None, "Folder where completions are kept by content of model, prompts and settings; none = no cache."
    )

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "above 0 (do_sample=False is greedy)")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
