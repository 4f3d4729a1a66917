"""How the models of a world are pre-trained: size and settings."""

from dataclasses import asdict, dataclass

from transformers import LlamaConfig, PreTrainedTokenizerFast

CONTEXT_LENGTH = 32


@dataclass(frozen=True)
class PretrainingRecipe:
    """Size of a world's models and settings of their pre-training.

    Attributes:
        steps: optimizer updates of either model.
        batch_size: questions an update.
        learning_rate: peak of AdamW's rate.
        label_noise: share of the answers of every batch that is replaced by another possible answer, drawn anew each
            time. It keeps the model from becoming certain, where gradients vanish.

    Raises `ValueError` naming the field that is out of range.
    """

    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 2e-3
    label_noise: float = 0.15

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "label_noise" and not value > 0:
                raise ValueError(f"{name}={value!r} is not valid: it must be above 0")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"label_noise={self.label_noise!r} is not valid: it must be in [0, 1)")
        # Rotary position embeddings turn pairs of dimensions, hence an even number a head.
        if self.hidden_size % (2 * self.num_heads) != 0:
            raise ValueError(
                f"hidden_size={self.hidden_size!r} is not valid: it must be a multiple of twice "
                f"num_heads={self.num_heads}"
            )

    def model_config(self, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
        """Configuration of a model of this size for a world's tokenizer."""
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            max_position_embeddings=CONTEXT_LENGTH,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )


SMALL = PretrainingRecipe(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, learning_rate=3e-3)
"""For worlds of a few hundred facts: about a sixth of the default size."""
