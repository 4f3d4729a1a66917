"""The word-level tokenizer of a world's models."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNK, EOS = "<pad>", "<unk>", "<eos>"


def build_tokenizer(texts: Iterable[str], context_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which each word of `texts` is one token, the space before it included.

    As in GPT-2's tokenizer the space belongs to the word that follows. So tokenising a prompt gives a
    prefix of tokenising prompt and completion, and decoding a completion alone gives its text exactly.

    Args:
        texts: everything that must be expressible; other words become the unknown token.
        context_length: longest sequence of the model, in tokens.
    """
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = {word for text in texts for word, _ in words.pre_tokenize_str(text)}
    vocabulary = {token: index for index, token in enumerate([PAD, UNK, EOS, *sorted(found)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )
