"""Settings of elicitation (stage 1 of the method)."""

import math
from dataclasses import dataclass
from urllib.parse import urlsplit

from graceful_forgetting.config.fields import require, setting
from graceful_forgetting.config.values import checked_when_made


@checked_when_made
@dataclass
class ElicitationConfig:
    """How the base model is asked for its own knowledge (stage 1 of the method).

    Every field is documented by its `help` metadata. Raises `ValueError` naming the field that is out of range.
    """

    batch_size: int = setting(32, "Completions generated at once; with a server, requests under way at once.")
    max_new_tokens: int = setting(64, "Longest completion, in tokens.")
    num_samples_per_prompt: int = setting(1, "Completions drawn per prompt; more than one needs a temperature above 0.")
    temperature: float = setting(0.0, "Softmax temperature of sampling; 0 decodes greedily.")
    seed: int = setting(42, "Seed of sampling; greedy decoding does not use it.")
    server_url: str | None = setting(
        None,
        "Base address of an OpenAI-compatible server (vLLM, SGLang, TGI) that generates the completions, /v1 included, "
        "for example http://localhost:8000/v1. None: the model in memory generates them.",
    )
    server_model: str | None = setting(None, "With server_url: the name that the server has for the model.")
    server_api_key_env: str | None = setting(
        None, "Environment variable that holds the server's API key; the key itself is never stored. None = no key."
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens", "num_samples_per_prompt"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(
            0 <= self.temperature < math.inf, "temperature", self.temperature, "at least 0 (0 is greedy), and finite"
        )
        if self.num_samples_per_prompt > 1 and self.temperature == 0:
            raise ValueError(
                f"num_samples_per_prompt={self.num_samples_per_prompt} with temperature={self.temperature}: greedy "
                "decoding gives the same completion each time; set temperature=1.0 (the model as it is) or "
                "another above 0, or leave num_samples_per_prompt at 1"
            )
        self._check_server()

    def _check_server(self) -> None:
        if self.server_url is None:
            for name in ("server_model", "server_api_key_env"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} with server_url=None: no server is asked; set server_url, or "
                        f"leave {name} out"
                    )
            return
        parts = urlsplit(self.server_url)
        if "@" in parts.netloc:
            raise ValueError(
                "server_url holds a user name or password, which would be stored with the settings: put the key into "
                "an environment variable and name that variable in server_api_key_env"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"server_url={self.server_url!r} is not valid: it must be the base address of the API, such as "
                "http://localhost:8000/v1"
            )
        if self.server_model is None:
            raise ValueError(
                f"server_url={self.server_url!r} with server_model=None: set server_model, the name that the server "
                "has for the model"
            )
