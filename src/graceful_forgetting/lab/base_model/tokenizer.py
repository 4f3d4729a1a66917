"""The byte-level BPE tokenizer of a base model."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"


def train_tokenizer(documents: Iterable[str], vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits; puts BOS in front of every text, as Llama's tokenizers do.

    Args:
        documents: read once.
        vocab_size: most tokens; little text gives fewer.
        context_length: longest sequence that the model takes, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """How many bytes of text each token id stands for; 0 for the special ones."""
    special = set(tokenizer.all_special_ids)
    # One character of a byte-level token's name stands for one byte.
    return [0 if i in special else len(tokenizer.convert_ids_to_tokens(i)) for i in range(len(tokenizer))]
