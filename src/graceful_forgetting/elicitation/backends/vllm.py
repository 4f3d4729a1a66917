"""Offline generation by vLLM, which reads the model from its folder or from the hub."""

from collections.abc import Iterator, Sequence

from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation.backends.judged import Answer, make_answer
from graceful_forgetting.generation import Request


class VllmEngine:
    """`vllm.LLM` on token ids (https://docs.vllm.ai/en/latest/serving/offline_inference.html).

    Each request carries its own seed. vLLM itself says that results are reproducible on the same hardware and
    version only, and depend on the batch by rounding unless VLLM_BATCH_INVARIANT=1 is set.

    Args:
        model: in memory; its `name_or_path` is what vLLM loads.
        config: `vllm_gpu_memory_utilization` is read; the sampling settings come with each call.
        eos_token_ids: tokens that end an answer.
        max_length: tokens of the longest prompt with its answer.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: the model has an adapter, or was not loaded from anywhere.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        config: ElicitationConfig,
        eos_token_ids: Sequence[int],
        max_length: int,
    ) -> None:
        if isinstance(model, PeftModel):
            raise ValueError(
                "backend='vllm' loads a model from its folder, and this one has an adapter in memory: save the merged "
                "model (model.merge_and_unload().save_pretrained(...)) and load that, or use backend='transformers'"
            )
        if not model.name_or_path:
            raise ValueError(
                "backend='vllm' loads a model from its folder, and this one was built in memory: save it and load it "
                "with from_pretrained, or use backend='transformers'"
            )
        try:
            import vllm
        except ImportError as error:
            raise ImportError(
                "backend='vllm' needs vLLM, which is not installed: pip install 'graceful-forgetting[vllm]' (Linux, "
                "GPU), or use another backend"
            ) from error
        self._vllm = vllm
        self._eos_token_ids = list(eos_token_ids)
        self._engine = vllm.LLM(
            model=model.name_or_path,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=max_length,
            gpu_memory_utilization=config.vllm_gpu_memory_utilization,
            # Prompts are token ids and answers are taken as such.
            skip_tokenizer_init=True,
        )

    def answers(self, requests: Sequence[Request], config: ElicitationConfig) -> Iterator[Answer]:
        """One answer for each request, in their order, once all are there."""
        outputs = self._engine.generate(
            [self._vllm.TokensPrompt(prompt_token_ids=request.prompt_ids) for request in requests],
            [self._sampling(request, config) for request in requests],
            use_tqdm=False,
        )
        for output in outputs:
            (answer,) = output.outputs
            yield make_answer(answer.token_ids, answer.finish_reason == "stop", self._eos_token_ids)

    def _sampling(self, request: Request, config: ElicitationConfig) -> object:
        chosen = (
            {"temperature": config.temperature, "top_p": config.top_p, "seed": request.seed}
            if config.do_sample
            else {"temperature": 0.0}
        )
        return self._vllm.SamplingParams(
            n=1,
            max_tokens=config.max_new_tokens,
            stop_token_ids=self._eos_token_ids,
            detokenize=False,
            **chosen,
        )
