"""Settings: one dataclass a stage, and `LWFConfig`, which joins them all to TRL's `SFTConfig`.

A stage field has one home, its stage config. `LWFConfig` repeats it under a prefixed name (`elicitation_batch_size` is
`ElicitationConfig.batch_size`) and takes default and help text from there, so that one flat YAML file or command line
can set everything.
"""

import json
import math
import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

FisherEstimator = Literal["sampled", "empirical"]
# `exact` is an estimator of the posterior only: the oracle differentiates one label at a position.
PosteriorEstimator = Literal["sampled", "empirical", "exact"]
ParameterSpace = Literal["trainable", "merged"]
ConfidenceEngine = Literal["batched", "oracle"]
ElicitationBackend = Literal["transformers", "continuous_batching", "vllm", "server"]
ScorerName = Literal["lwf", "linear", "overlap", "interference", "loss", "random"]
StepSizeRule = Literal["fixed", "polyak", "line_search"]
WeightsPlacement = Literal["resident", "streamed"]
WeightsDtype = Literal["float32", "bfloat16"]
SelectionStrategy = Literal["highest", "lowest", "random", "threshold"]
UnlearnObjective = Literal["bounded_ascent", "gradient_ascent"]
UnlearnScheduler = Literal["follow", "constant"]

DEFAULT_FORGET_FRACTION = 0.25


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not valid: it must be {expected}")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, value, "one of " + ", ".join(choices))


@dataclass
class ElicitationConfig:
    """How the base model is asked for its own knowledge (stage 1 of the method).

    Every field is documented by its `help` metadata. Raises `ValueError` naming the field that is out of range.
    """

    backend: ElicitationBackend = _setting(
        "transformers",
        "What generates: 'transformers': batches by `generate`; 'continuous_batching': transformers' paged scheduler; "
        "'vllm': an offline vLLM engine of the model's folder; 'server': an OpenAI-compatible server at server_url.",
    )
    batch_size: int = _setting(
        32, "Completions generated at once (with 'server': requests under way at once; 'vllm' chooses itself)."
    )
    max_new_tokens: int = _setting(64, "Longest completion, in tokens.")
    num_samples_per_prompt: int = _setting(1, "Completions drawn per prompt; more than one needs do_sample.")
    do_sample: bool = _setting(False, "Sample completions instead of decoding greedily.")
    temperature: float = _setting(1.0, "Softmax temperature; read only when sampling.")
    top_p: float = _setting(1.0, "Nucleus mass kept when sampling; 1 keeps the whole distribution.")
    seed: int = _setting(42, "Seed of sampling; greedy decoding does not use it.")
    shard_size: int = _setting(1024, "Completions between two saves of a resumable elicitation.")
    server_url: str | None = _setting(
        None, "With 'server': base of its API, /v1 included, for example http://localhost:8000/v1."
    )
    server_model: str | None = _setting(None, "With 'server': the name that it serves the model under.")
    server_api_key_env: str | None = _setting(
        None, "Environment variable that holds the server's API key; the key itself is never stored. None = no key."
    )
    vllm_gpu_memory_utilization: float = _setting(
        0.5, "Share of the device's memory that vLLM takes; the model itself, which judges the answers, needs the rest."
    )
    cache_dir: str | None = _setting(
        None, "Folder where completions are kept by content of model, prompts and settings; none = no cache."
    )

    def __post_init__(self) -> None:
        _require_choice("backend", self.backend, get_args(ElicitationBackend))
        for name in ("batch_size", "num_samples_per_prompt", "shard_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0 (do_sample=False is greedy)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1]")
        if self.num_samples_per_prompt > 1 and not self.do_sample:
            raise ValueError(
                f"num_samples_per_prompt={self.num_samples_per_prompt} with do_sample=False: greedy decoding gives the "
                "same completion each time; set do_sample=True, or leave num_samples_per_prompt at 1"
            )
        utilization = self.vllm_gpu_memory_utilization
        _require(0 < utilization < 1, "vllm_gpu_memory_utilization", utilization, "between 0 and 1")
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


@dataclass
class PosteriorConfig:
    """How the diagonal Fisher information of the learning task is estimated, and of which parameters (stage 2)."""

    estimator: PosteriorEstimator = _setting(
        "sampled",
        "'sampled': labels drawn from the model itself (the Fisher information); 'empirical': the labels of the "
        "data, which shrinks towards 0 where the data are fitted; 'exact': expectation over the vocabulary at every "
        "position, one gradient for each (small models only).",
    )
    num_samples: int | None = _setting(None, "Learning examples used, drawn without replacement; none = all.")
    draws: int = _setting(1, "Labels drawn per position with 'sampled'; the estimate is their mean.")
    batch_size: int = _setting(16, "Gradients per forward and backward pass; does not change the result.")
    parameter_space: ParameterSpace = _setting(
        "trainable",
        "'trainable': the parameters that are trained (of a LoRA model its factors); 'merged': for a LoRA model the "
        "dense weights of its target modules, with the adapter merged into them.",
    )
    parameter_pattern: str | None = _setting(
        None,
        "Regular expression, searched in parameter names: only matching parameters are covered. An approximation of "
        "the full score; none = all.",
    )
    last_blocks: int | None = _setting(
        None, "Only the parameters of the last n transformer blocks. An approximation of the full score; none = all."
    )
    shard_size: int = _setting(1024, "Gradients between two saves of a resumable estimation.")
    seed: int = _setting(42, "Seed of the drawn examples and labels.")

    def __post_init__(self) -> None:
        _require_choice("estimator", self.estimator, get_args(PosteriorEstimator))
        _require(self.num_samples is None or self.num_samples >= 1, "num_samples", self.num_samples, "at least 1")
        _require(self.draws >= 1, "draws", self.draws, "at least 1")
        if self.draws > 1 and self.estimator != "sampled":
            raise ValueError(
                f"draws={self.draws} with estimator={self.estimator!r}: only 'sampled' draws labels; leave draws at 1"
            )
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require_choice("parameter_space", self.parameter_space, get_args(ParameterSpace))
        if self.parameter_pattern is not None:
            try:
                re.compile(self.parameter_pattern)
            except re.error as error:
                raise ValueError(
                    f"parameter_pattern={self.parameter_pattern!r} is not valid: it must be a regular expression "
                    f"({error})"
                ) from error
        _require(self.last_blocks is None or self.last_blocks >= 1, "last_blocks", self.last_blocks, "at least 1")
        _require(self.shard_size >= 1, "shard_size", self.shard_size, "at least 1")


@dataclass
class ConfidenceConfig:
    """How the samples are scored (stage 3)."""

    scorer: ScorerName = _setting(
        "lwf",
        "What ranks the samples: 'lwf' (forgetting confidence), 'linear' or 'overlap' (its linear or quadratic term "
        "alone), 'interference' (what learning did to the loss), 'loss' (of the base model), or 'random'.",
    )
    step_size: float = _setting(
        1.0,
        "α of the formula: length of the one gradient step that stands for what a sample wants. It decides whether "
        "the linear or the quadratic term ranks the samples. A factor on the step that step_size_rule finds.",
    )
    step_size_rule: StepSizeRule = _setting(
        "fixed",
        "'fixed': α is step_size for every sample; 'polyak': step_size · L(x)/‖g‖², per sample and from the same "
        "pass; 'line_search': step_size times the step of largest decrease of L(x) on a geometric grid around "
        "Polyak's, one backward and 12 forward passes a sample.",
    )
    batch_size: int = _setting(16, "Samples per forward and backward pass; does not change the result.")
    engine: ConfidenceEngine = _setting(
        "batched",
        "'batched': one backward pass a batch; 'oracle': one backward pass a sample (slow, for checks).",
    )
    strict: bool = _setting(
        False,
        "Refuse a model with modules that have no batched rule, instead of using the slow exact path for them.",
    )
    weights_placement: WeightsPlacement = _setting(
        "resident",
        "Where F and FΔ are while samples are scored: 'resident': beside the parameters, on their device; "
        "'streamed': read from the posterior's memory-mapped file parameter by parameter, anew for each batch.",
    )
    weights_dtype: WeightsDtype = _setting(
        "float32", "Type that F and FΔ are held in; 'bfloat16' halves their memory at about 3 digits of precision."
    )
    shard_size: int = _setting(1024, "Samples between two saves of a resumable scoring run.")
    seed: int = _setting(42, "Seed of scorer 'random'; the others do not use it.")

    def __post_init__(self) -> None:
        _require_choice("scorer", self.scorer, get_args(ScorerName))
        _require(math.isfinite(self.step_size) and self.step_size > 0, "step_size", self.step_size, "above 0")
        _require_choice("step_size_rule", self.step_size_rule, get_args(StepSizeRule))
        if self.step_size_rule != "fixed" and self.scorer in ("interference", "loss", "random"):
            raise ValueError(
                f"step_size_rule={self.step_size_rule!r} with scorer={self.scorer!r}: that scorer takes no gradient "
                "step; leave step_size_rule at 'fixed', or use scorer 'lwf', 'linear' or 'overlap'"
            )
        if self.step_size_rule == "line_search" and self.strict:
            raise ValueError(
                "strict=True with step_size_rule='line_search': a line search takes one backward pass a sample, "
                "which is what strict refuses; set one of them back to its default"
            )
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require_choice("engine", self.engine, get_args(ConfidenceEngine))
        _require_choice("weights_placement", self.weights_placement, get_args(WeightsPlacement))
        _require_choice("weights_dtype", self.weights_dtype, get_args(WeightsDtype))
        _require(self.shard_size >= 1, "shard_size", self.shard_size, "at least 1")


@dataclass
class SelectionConfig:
    """Which scored samples are unlearned (stage 4).

    Exactly one of `fraction`, `count`, `threshold` and `quotas` says how many.
    """

    strategy: SelectionStrategy = _setting(
        "highest",
        "'highest' or 'lowest' confidence, 'random', or 'threshold' (every score of at least forget_threshold).",
    )
    fraction: float | None = _setting(None, "Share of the scored samples that is unlearned, in (0, 1].")
    count: int | None = _setting(None, "Number of scored samples that is unlearned.")
    threshold: float | None = _setting(None, "Lowest score that is unlearned; only with strategy 'threshold'.")
    quotas: dict[str, float] | str | None = _setting(
        None,
        "Per forgetting task: a share in (0, 1] or a whole number of samples, in place of one for all. "
        "JSON on the command line.",
    )
    seed: int = _setting(42, "Seed of strategy 'random'.")

    def __post_init__(self) -> None:
        _require_choice("strategy", self.strategy, get_args(SelectionStrategy))
        if isinstance(self.quotas, str):
            try:
                self.quotas = json.loads(self.quotas)
            except json.JSONDecodeError as error:
                raise ValueError(f"quotas={self.quotas!r} is not valid JSON: {error}") from error
        given = [name for name in ("fraction", "count", "threshold", "quotas") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{', '.join(given)} are set together, and each decides how many samples: keep one")
        if (self.strategy == "threshold") != (self.threshold is not None):
            raise ValueError(
                f"strategy={self.strategy!r} with threshold={self.threshold!r}: strategy 'threshold' needs a "
                "threshold, and no other strategy takes one"
            )
        if not given:
            raise ValueError("set one of fraction, count, quotas or threshold: how many samples to unlearn")
        _require(
            self.fraction is None or 0 < self.fraction <= 1,
            "fraction",
            self.fraction,
            "in (0, 1]: the share of samples",
        )
        _require(self.count is None or self.count >= 1, "count", self.count, "at least 1")


def _from(config: type, name: str, default: Any = MISSING) -> Any:
    """A field with the default (unless another is given) and the help text of `config`'s field `name`."""
    source = next(f for f in fields(config) if f.name == name)
    return field(default=source.default if default is MISSING else default, metadata=dict(source.metadata))


@dataclass
class LWFConfig(SFTConfig):
    """Settings of `LWFTrainer`: those of TRL's `SFTConfig` and, by prefix, those of each stage of the method.

    > Elicitation: `elicitation_*`, see `ElicitationConfig`
    > Posterior: `posterior_*`, see `PosteriorConfig`
    > Confidence: `confidence_*`, see `ConfidenceConfig`
    > Selection: `forget_*`, see `SelectionConfig`
    > Unlearning: `unlearn_*`, `per_device_unlearn_batch_size`, `guard_*`

    Each field's meaning is its `help` metadata. Differences from `SFTConfig`: on a machine without a bf16-capable
    accelerator, an unset `bf16` becomes `False` where `SFTConfig` would refuse to start.

    Raises:
        ValueError: names the field, its value and what is valid.
    """

    elicitation_backend: ElicitationBackend = _from(ElicitationConfig, "backend")
    elicitation_batch_size: int = _from(ElicitationConfig, "batch_size")
    elicitation_max_new_tokens: int = _from(ElicitationConfig, "max_new_tokens")
    elicitation_num_samples_per_prompt: int = _from(ElicitationConfig, "num_samples_per_prompt")
    elicitation_do_sample: bool = _from(ElicitationConfig, "do_sample")
    elicitation_temperature: float = _from(ElicitationConfig, "temperature")
    elicitation_top_p: float = _from(ElicitationConfig, "top_p")
    elicitation_shard_size: int = _from(ElicitationConfig, "shard_size")
    elicitation_server_url: str | None = _from(ElicitationConfig, "server_url")
    elicitation_server_model: str | None = _from(ElicitationConfig, "server_model")
    elicitation_server_api_key_env: str | None = _from(ElicitationConfig, "server_api_key_env")
    elicitation_vllm_gpu_memory_utilization: float = _from(ElicitationConfig, "vllm_gpu_memory_utilization")
    elicitation_cache_dir: str | None = _from(ElicitationConfig, "cache_dir")

    posterior_estimator: PosteriorEstimator = _from(PosteriorConfig, "estimator")
    posterior_num_samples: int | None = _from(PosteriorConfig, "num_samples")
    posterior_draws: int = _from(PosteriorConfig, "draws")
    posterior_batch_size: int = _from(PosteriorConfig, "batch_size")
    posterior_parameter_space: ParameterSpace = _from(PosteriorConfig, "parameter_space")
    posterior_parameter_pattern: str | None = _from(PosteriorConfig, "parameter_pattern")
    posterior_last_blocks: int | None = _from(PosteriorConfig, "last_blocks")
    posterior_shard_size: int = _from(PosteriorConfig, "shard_size")

    confidence_scorer: ScorerName = _from(ConfidenceConfig, "scorer")
    confidence_step_size: float = _from(ConfidenceConfig, "step_size")
    confidence_step_size_rule: StepSizeRule = _from(ConfidenceConfig, "step_size_rule")
    confidence_batch_size: int = _from(ConfidenceConfig, "batch_size")
    confidence_engine: ConfidenceEngine = _from(ConfidenceConfig, "engine")
    confidence_strict: bool = _from(ConfidenceConfig, "strict")
    confidence_weights_placement: WeightsPlacement = _from(ConfidenceConfig, "weights_placement")
    confidence_weights_dtype: WeightsDtype = _from(ConfidenceConfig, "weights_dtype")
    confidence_shard_size: int = _from(ConfidenceConfig, "shard_size")

    forget_strategy: SelectionStrategy = _from(SelectionConfig, "strategy")
    forget_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the scored samples that is unlearned, in (0, 1]. Unset, with neither forget_count nor "
            "forget_threshold: 0.25."
        },
    )
    forget_count: int | None = _from(SelectionConfig, "count")
    forget_threshold: float | None = _from(SelectionConfig, "threshold")
    forget_quotas: dict[str, float] | str | None = _from(SelectionConfig, "quotas")

    unlearn_every: int = _setting(
        5, "N_u: learning updates from one unlearning update to the next; 0 turns unlearning off."
    )
    unlearn_objective: UnlearnObjective = _setting(
        "bounded_ascent",
        "What an unlearning update raises: 'bounded_ascent' raises each sample's loss up to unlearn_loss_cap; "
        "'gradient_ascent' raises it without bound, as published.",
    )
    unlearn_loss_cap: float = _setting(
        8.0, "Loss of a sample, in nats per token, above which 'bounded_ascent' leaves it alone."
    )
    unlearn_learning_rate: float | None = _setting(
        None, "Learning rate of the unlearning optimizer (AdamW); unset: half of learning_rate."
    )
    unlearn_lr_scheduler: UnlearnScheduler = _setting(
        "follow", "'follow': decays in step with the learning rate of learning; 'constant'."
    )
    unlearn_max_grad_norm: float = _setting(1.0, "Gradient norm that an unlearning update is clipped to; 0 = none.")
    per_device_unlearn_batch_size: int = _setting(8, "Samples per device and pass of an unlearning update.")
    unlearn_gradient_accumulation_steps: int = _setting(1, "Passes that are summed to one unlearning update.")

    guard: bool = _setting(
        True,
        "Stop unlearning for good, and say why, when the learning or held-out loss degrades past guard_margin.",
    )
    guard_margin: float = _setting(
        0.5,
        "Nats per token by which the smoothed learning loss, or the held-out loss, may exceed its lowest value so far.",
    )

    def __post_init__(self) -> None:
        names = {f.name for f in fields(SFTConfig)}
        # TRL 1.16 sets the old name by default, and transformers 5.23 warns of it unless the new one is set too.
        # Can go when TRL's default uses `activation_checkpointing`.
        if "activation_checkpointing" in names and self.activation_checkpointing is None:  # type: ignore[has-type]
            self.activation_checkpointing = self.gradient_checkpointing
        unset = self.bf16 is None  # type: ignore[has-type]
        if unset and not self.fp16 and not self.use_cpu and not is_torch_bf16_gpu_available():
            self.bf16 = False
        super().__post_init__()
        self._check_unlearning()
        # Building them checks every stage's fields before any work starts.
        self.elicitation_config()
        self.posterior_config()
        self.confidence_config()
        self.selection_config()

    def _check_unlearning(self) -> None:
        _require(self.unlearn_every >= 0, "unlearn_every", self.unlearn_every, "0 (off) or more")
        _require_choice("unlearn_objective", self.unlearn_objective, get_args(UnlearnObjective))
        _require_choice("unlearn_lr_scheduler", self.unlearn_lr_scheduler, get_args(UnlearnScheduler))
        _require_choice("forget_strategy", self.forget_strategy, get_args(SelectionStrategy))
        for name in ("unlearn_loss_cap", "guard_margin"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(
            self.unlearn_learning_rate is None or self.unlearn_learning_rate > 0,
            "unlearn_learning_rate",
            self.unlearn_learning_rate,
            "above 0",
        )
        _require(self.unlearn_max_grad_norm >= 0, "unlearn_max_grad_norm", self.unlearn_max_grad_norm, "0 or more")
        for name in ("per_device_unlearn_batch_size", "unlearn_gradient_accumulation_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.unlearn_every > 0 and self.unlearn_lr_scheduler == "follow" and not self.learning_rate > 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} leaves unlearn_lr_scheduler='follow' nothing to follow: set it "
                "above 0, or use unlearn_lr_scheduler='constant' with an unlearn_learning_rate"
            )
        if self.unlearn_every > 0 and self.fp16:
            raise ValueError(
                "fp16=True is not supported together with unlearning: the loss scaler would be shared by two "
                "optimizers. Use bf16=True, or unlearn_every=0."
            )

    def elicitation_config(self) -> ElicitationConfig:
        return ElicitationConfig(
            backend=self.elicitation_backend,
            batch_size=self.elicitation_batch_size,
            max_new_tokens=self.elicitation_max_new_tokens,
            num_samples_per_prompt=self.elicitation_num_samples_per_prompt,
            do_sample=self.elicitation_do_sample,
            temperature=self.elicitation_temperature,
            top_p=self.elicitation_top_p,
            shard_size=self.elicitation_shard_size,
            server_url=self.elicitation_server_url,
            server_model=self.elicitation_server_model,
            server_api_key_env=self.elicitation_server_api_key_env,
            vllm_gpu_memory_utilization=self.elicitation_vllm_gpu_memory_utilization,
            seed=self.seed,
            cache_dir=self.elicitation_cache_dir,
        )

    def posterior_config(self) -> PosteriorConfig:
        return PosteriorConfig(
            estimator=self.posterior_estimator,
            num_samples=self.posterior_num_samples,
            draws=self.posterior_draws,
            batch_size=self.posterior_batch_size,
            parameter_space=self.posterior_parameter_space,
            parameter_pattern=self.posterior_parameter_pattern,
            last_blocks=self.posterior_last_blocks,
            shard_size=self.posterior_shard_size,
            seed=self.seed,
        )

    def confidence_config(self) -> ConfidenceConfig:
        return ConfidenceConfig(
            scorer=self.confidence_scorer,
            step_size=self.confidence_step_size,
            step_size_rule=self.confidence_step_size_rule,
            batch_size=self.confidence_batch_size,
            engine=self.confidence_engine,
            strict=self.confidence_strict,
            weights_placement=self.confidence_weights_placement,
            weights_dtype=self.confidence_weights_dtype,
            shard_size=self.confidence_shard_size,
            seed=self.seed,
        )

    def selection_config(self) -> SelectionConfig:
        how_many = (self.forget_fraction, self.forget_count, self.forget_threshold, self.forget_quotas)
        fraction = DEFAULT_FORGET_FRACTION if how_many == (None, None, None, None) else self.forget_fraction
        return SelectionConfig(
            strategy=self.forget_strategy,
            fraction=fraction,
            count=self.forget_count,
            threshold=self.forget_threshold,
            quotas=self.forget_quotas,
            seed=self.seed,
        )
