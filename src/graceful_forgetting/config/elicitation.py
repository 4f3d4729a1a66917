"""Settings of elicitation (stage 1 of the method)."""

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from graceful_forgetting.config.fields import require, require_choice, setting

ElicitationBackend = Literal["transformers", "continuous_batching", "vllm", "server"]


@dataclass
class ElicitationConfig:
    """How the base model is asked for its own knowledge (stage 1 of the method).

    Every field is documented by its `help` metadata. Raises `ValueError` naming the field that is out of range.
    """

    backend: ElicitationBackend = setting(
        "transformers",
        "What generates: 'transformers': batches by `generate`; 'continuous_batching': transformers' paged scheduler; "
        "'vllm': an offline vLLM engine of the model's folder; 'server': an OpenAI-compatible server at server_url.",
    )
    batch_size: int = setting(
        32, "Completions generated at once (with 'server': requests under way at once; 'vllm' chooses itself)."
    )
    max_new_tokens: int = setting(64, "Longest completion, in tokens.")
    num_samples_per_prompt: int = setting(1, "Completions drawn per prompt; more than one needs do_sample.")
    do_sample: bool = setting(False, "Sample completions instead of decoding greedily.")
    temperature: float = setting(1.0, "Softmax temperature; read only when sampling.")
    top_p: float = setting(1.0, "Nucleus mass kept when sampling; 1 keeps the whole distribution.")
    seed: int = setting(42, "Seed of sampling; greedy decoding does not use it.")
    shard_size: int = setting(1024, "Completions between two saves of a resumable elicitation.")
    server_url: str | None = setting(
        None, "With 'server': base of its API, /v1 included, for example http://localhost:8000/v1."
    )
    server_model: str | None = setting(None, "With 'server': the name that it serves the model under.")
    server_api_key_env: str | None = setting(
        None, "Environment variable that holds the server's API key; the key itself is never stored. None = no key."
    )
    vllm_gpu_memory_utilization: float = setting(
        0.5, "Share of the device's memory that vLLM takes; the model itself, which judges the answers, needs the rest."
    )
    cache_dir: str | None = setting(
        None, "Folder where completions are kept by content of model, prompts and settings; none = no cache."
    )

    def __post_init__(self) -> None:
        require_choice("backend", self.backend, get_args(ElicitationBackend))
        for name in ("batch_size", "num_samples_per_prompt", "shard_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "above 0 (do_sample=False is greedy)")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        if self.num_samples_per_prompt > 1 and not self.do_sample:
            raise ValueError(
                f"num_samples_per_prompt={self.num_samples_per_prompt} with do_sample=False: greedy decoding gives the "
                "same completion each time; set do_sample=True, or leave num_samples_per_prompt at 1"
            )
        utilization = self.vllm_gpu_memory_utilization
        require(0 < utilization < 1, "vllm_gpu_memory_utilization", utilization, "between 0 and 1")
        self._check_server()

    def _check_server(self) -> None:
        if self.backend != "server":
            for name in ("server_url", "server_model", "server_api_key_env"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} with backend={self.backend!r}: only backend='server' reads "
                        "it; set the backend, or leave it out"
                    )
            return
        if self.server_url is None or self.server_model is None:
            raise ValueError(
                f"backend='server' with server_url={self.server_url!r} and server_model={self.server_model!r}: set "
                "both, the address of the server's API and the name that it serves the model under"
            )
        parts = urlsplit(self.server_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"server_url={self.server_url!r} is not valid: it must be the base address of the API, such as "
                "http://localhost:8000/v1"
            )
        if "@" in parts.netloc:
            raise ValueError(
                "server_url holds a user name or password, which would be stored with the settings: put the key into "
                "an environment variable and name that variable in server_api_key_env"
            )
