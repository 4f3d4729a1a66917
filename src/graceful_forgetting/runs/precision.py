"""Types of weights that mixed precision cannot be trained with."""

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.runs.models import ModelArguments


def check_precision(lwf: LWFConfig, model: ModelArguments) -> None:
    """Refuse a `dtype` of the weights that `bf16` or `fp16` does not go with.

    Mixed precision computes in 16 bit from weights in float32. An adapter has float32 weights of its own.

    Raises:
        ValueError: names both settings and what goes together.
    """
    wanted = "set dtype='float32', which is what is trained in mixed precision"
    if model.use_lora:
        return
    if lwf.fp16 and model.dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"fp16=True with dtype={model.dtype!r}: its loss scaler works on gradients in float32, and those of these "
            f"weights have 16 bit; {wanted}"
        )
    if lwf.bf16 and model.dtype == "float16":
        raise ValueError(
            f"bf16=True with dtype='float16': products in bfloat16 of weights in float16 lose the digits of the one "
            f"and the range of the other; {wanted}, or 'bfloat16'"
        )
