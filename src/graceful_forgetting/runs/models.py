"""Loading models for the stages: base, with a fresh adapter, or as a finished arm."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from graceful_forgetting.config.fields import setting
from graceful_forgetting.runs.gguf import dequantised_folder
from graceful_forgetting.training.model_files import in_short, outline
from graceful_forgetting.training.shipped import resolve_model_name

# Parameters below which one CPU thread is used; `docs/log.md` has the measurement.
SMALL_MODEL = 2_000_000
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class ModelArguments:
    """Which model is fine-tuned, and whether all its weights are or a LoRA adapter."""

    model_name_or_path: str | None = setting(
        None,
        "Base model: a name on the hub, a folder, or graceful/base-text, the small one in the package. A folder with "
        "two models, base and never_knew, brings the twin without the harmful knowledge as the upper reference.",
    )
    gguf_file: str | None = setting(
        None, "Name of a GGUF file in model_name_or_path whose weights are dequantised; needs the extra gguf."
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = setting(
        "float32", "Type of the weights; float32 with bf16=True trains in mixed precision."
    )
    use_lora: bool = setting(
        False, "Train a LoRA adapter, on all linear layers but the output layer, in place of all weights."
    )
    lora_r: int = setting(16, "Rank r of the adapter. Its output is scaled by 2 (lora_alpha = 2 r), without dropout.")

    def name_or_folder(self, model_init_kwargs: Mapping[str, Any] | None) -> str | None:
        """Where the base model is read from: the folder in the package or in the cache that a name stands for.

        Raises as `dequantised_folder`, and `ValueError` for a `gguf_file` without a `model_name_or_path`.
        """
        name = self.model_name_or_path
        if self.gguf_file is None:
            return None if name is None else resolve_model_name(name)
        if name is None:
            raise ValueError(
                f"gguf_file={self.gguf_file!r} is in no folder: set model_name_or_path to the folder that has it"
            )
        revision = (model_init_kwargs or {}).get("revision")
        return str(dequantised_folder(name, self.gguf_file, dtype=self.dtype, revision=revision))

    def lora_config(self) -> LoraConfig | None:
        """The adapter's configuration; none for full fine-tuning."""
        if not self.use_lora:
            return None
        return LoraConfig(
            r=self.lora_r,
            lora_alpha=2 * self.lora_r,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )


class ModelLoader:
    """Loads every model of a run in the same way.

    Args:
        arguments: which model.
        trust_remote_code: passed to transformers; off unless the user turned it on.
        device: where models are put.
        model_init_kwargs: `revision` (branch, tag or commit of a model on the hub) and `attn_implementation`, as
            transformers names it.

    Raises:
        ValueError: other names in `model_init_kwargs`.
    """

    def __init__(
        self,
        arguments: ModelArguments,
        trust_remote_code: bool | None,
        device: torch.device,
        model_init_kwargs: Mapping[str, Any] | None = None,
    ):
        options = dict(model_init_kwargs or {})
        self.revision = options.pop("revision", None)
        self.attn_implementation = options.pop("attn_implementation", None)
        if options:
            raise ValueError(
                f"model_init_kwargs has {', '.join(options)}: `graceful run` takes revision and attn_implementation "
                "there; the type of the weights is dtype"
            )
        self.arguments = arguments
        self.trust_remote_code = bool(trust_remote_code)
        self.device = device

    def tokenizer(self, path: str | Path) -> PreTrainedTokenizerBase:
        """The tokenizer of a model as it is there; see `settled_tokenizer`.

        Raises `ValueError` where its files cannot be read.
        """
        try:
            return AutoTokenizer.from_pretrained(
                str(path), revision=self._revision(path), trust_remote_code=self.trust_remote_code
            )
        # Files of any content: what libraries raise has no common class.
        except Exception as error:
            # Names the file, where one is damaged.
            self.outline(path)
            raise ValueError(
                f"model_name_or_path={str(path)!r}: its tokenizer cannot be loaded ({in_short(error)}): "
                "restore tokenizer.json and tokenizer_config.json"
            ) from error

    def base(self, path: str | Path) -> PreTrainedModel:
        """The model at `path` as it is there."""
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            revision=self._revision(path),
            dtype=self.arguments.dtype,
            attn_implementation=self.attn_implementation,
            trust_remote_code=self.trust_remote_code,
            # A pickle can run any code when it is loaded.
            use_safetensors=True,
        )
        return self._placed(model)

    def outline(self, path: str | Path) -> PreTrainedModel:
        """The model at `path` without its weights, on the meta device. Raises `ValueError` as `outline` does."""
        return outline(
            "model_name_or_path", str(path), revision=self.revision, trust_remote_code=self.trust_remote_code
        )

    def scratch(self, path: str | Path, seed: int) -> PreTrainedModel:
        """A model of the architecture at `path` whose weights are drawn from `seed`. Raises `ValueError` with LoRA."""
        if self.arguments.use_lora:
            raise ValueError("use_lora=True with a model from scratch: random weights under an adapter learn nothing")
        dtype = self.arguments.dtype
        config = AutoConfig.from_pretrained(
            str(path), revision=self._revision(path), trust_remote_code=self.trust_remote_code
        )
        set_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=config.dtype if dtype == "auto" else TORCH_DTYPES[dtype],
            attn_implementation=self.attn_implementation,
            trust_remote_code=self.trust_remote_code,
        )
        return self._placed(model)

    def _placed(self, model: PreTrainedModel) -> PreTrainedModel:
        model = model.to(self.device)
        if self.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ and model.num_parameters() < SMALL_MODEL:
            # Operations this short gain little from a second thread, and wait for it at length on a busy machine.
            torch.set_num_threads(1)
        return model

    def trainable(self, path: str | Path, seed: int) -> PreTrainedModel | PeftModel:
        """The model at the start of fine-tuning: itself, or with a fresh adapter drawn from `seed`."""
        model = self.base(path)
        lora = self.arguments.lora_config()
        if lora is None:
            return model
        set_seed(seed)
        return get_peft_model(model, lora)

    def finished(self, base: str | Path, arm: Path, trainable: bool = False) -> PreTrainedModel | PeftModel:
        """A fine-tuned model from the folder of its stage; `trainable` keeps the adapter's gradients on."""
        if not self.arguments.use_lora:
            return self.base(arm)
        return PeftModel.from_pretrained(self.base(base), str(arm), is_trainable=trainable)

    def _revision(self, path: str | Path) -> str | None:
        return None if Path(path).is_dir() else self.revision
