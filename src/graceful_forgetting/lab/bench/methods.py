"""Ways to get ⟨V, g⟩ and Σ F g² of every sample of a batch: the engine, and what it is measured against.

Every way is a function of a `Setting` and returns what is timed: a function without arguments. All are given the
same model weights, rows, V and F, and contract in float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.oracle import ConfidenceValues, oracle_confidence_terms
from graceful_forgetting.gradients.reducers import ConfidenceTerms, SquaredGradients
from graceful_forgetting.gradients.token_loss import draw_targets
from graceful_forgetting.lab.bench.architectures import random_weights

Run = Callable[[], ConfidenceValues | None]
SHAPES: dict[str, dict[str, int]] = {
    "7M": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    # HuggingFaceTB/SmolLM2-135M: its config.json on the hub.
    "135M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
"""Sizes of a Llama. With the output layer tied, 7M has 5.9 million parameters and 135M has 135."""


@dataclass(frozen=True)
class Setting:
    """One row of the benchmark: `batch_size` samples of `tokens` tokens, the first `prompt_tokens` of them not counted.

    tied: whether input and output embedding are one parameter.
    shape: of the model, in `SHAPES`.
    """

    tokens: int
    prompt_tokens: int
    batch_size: int
    tied: bool = False
    seed: int = 0
    shape: str = "7M"

    def model(self) -> PreTrainedModel:
        """A Llama with random weights."""
        torch.manual_seed(self.seed)
        longest = max(512, self.tokens)
        config = LlamaConfig(**SHAPES[self.shape], max_position_embeddings=longest, tie_word_embeddings=self.tied)
        return LlamaForCausalLM(config).eval()

    def rows(self) -> Dataset:
        """Random tokens, tokenised."""
        generator = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(SHAPES[self.shape]["vocab_size"], (self.batch_size, self.tokens), generator=generator)
        labels = ids.clone()
        labels[:, : self.prompt_tokens] = IGNORE_INDEX
        return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})

    def batch(self) -> dict[str, Tensor]:
        """The rows as one batch; nothing is padded."""
        rows = self.rows()
        batch = {name: torch.tensor(rows[name]) for name in ("input_ids", "labels")}
        return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}

    def weights(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """V and F ≥ 0."""
        return random_weights(model, self.seed + 1)


def plain(setting: Setting) -> Run:
    """Forward and backward of the mean loss, as a training step does, without an optimizer: the unit of the table."""
    model, batch = setting.model(), setting.batch()

    def run() -> None:
        model.zero_grad()
        model(**batch, use_cache=False).loss.backward()

    return run


def engine(setting: Setting) -> Run:
    """One forward and one backward of the batch (`graceful_forgetting.gradients.engine`)."""
    model, batch = setting.model(), setting.batch()
    weights = setting.weights(model)
    terms = ConfidenceTerms(*weights, dict(model.named_parameters()))
    scorer = PerSampleEngine(model, weights[0]).__enter__()

    def run() -> ConfidenceValues:
        loss = scorer.run(batch, terms)
        return ConfidenceValues(loss.double(), terms.linear, terms.quadratic)

    return run


def sampled_fisher(setting: Setting) -> Run:
    """The same engine, summing squared gradients with targets drawn from the model."""
    model, batch = setting.model(), setting.batch()
    parameters = dict(model.named_parameters())
    squares = SquaredGradients(parameters)
    scorer = PerSampleEngine(model, parameters).__enter__()
    indices = range(setting.batch_size)

    def run() -> None:
        scorer.run(batch, squares, lambda logits, targets: draw_targets(logits, targets, indices, setting.seed))

    return run


def oracle(setting: Setting) -> Run:
    """One backward pass a sample, contracted in float64: exact, and what errors are measured against."""
    model, rows = setting.model(), setting.rows()
    weights = setting.weights(model)
    return lambda: oracle_confidence_terms(model, rows, *weights)


def one_backward_a_sample(setting: Setting) -> Run:
    """The usual loop: a backward pass of every sample, contracted in float32."""
    model, batch = setting.model(), setting.batch()
    weights = setting.weights(model)

    def run() -> ConfidenceValues:
        terms = []
        for sample in range(setting.batch_size):
            model.zero_grad()
            row = {name: tensor[sample : sample + 1] for name, tensor in batch.items()}
            loss = model(**row, use_cache=False).loss
            loss.backward()
            gradients = {name: parameter.grad.unsqueeze(0) for name, parameter in model.named_parameters()}
            terms.append(_contracted(loss.detach().unsqueeze(0), gradients, *weights))
        return ConfidenceValues(*(torch.cat(parts) for parts in zip(*terms, strict=True)))

    return run


def vmap_grad(setting: Setting) -> Run:
    """`torch.func.vmap(grad)` over the batch, with the attention that it can batch."""
    model, batch = setting.model(), setting.batch()
    model.set_attn_implementation("eager")
    weights = setting.weights(model)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss_of(parameters: Mapping[str, Tensor], ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = {"input_ids": ids.unsqueeze(0), "use_cache": False}
        if setting.tied:
            parameters = {**parameters, "lm_head.weight": parameters["model.embed_tokens.weight"]}
        logits = functional_call(model, dict(parameters), (), inputs).logits[0, :-1]
        # Every row counts the same positions.
        first = max(setting.prompt_tokens - 1, 0)
        loss = nn.functional.cross_entropy(logits[first:], labels[1:][first:])
        return loss, loss

    gradients_of = vmap(grad(loss_of, has_aux=True), in_dims=(None, 0, 0))

    def run() -> ConfidenceValues:
        gradients, losses = gradients_of(parameters, batch["input_ids"], batch["labels"])
        return _contracted(losses, gradients, *weights)

    return run


def opacus(setting: Setting) -> Run:
    """Opacus' `GradSampleModule`: per-sample gradients by hooks, all parameters held."""
    from opacus import GradSampleModule

    # Its hooks stay silent in evaluation mode; the model has no dropout.
    model, batch = setting.model().train(), setting.batch()
    weights = setting.weights(model)
    wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)

    def run() -> ConfidenceValues:
        wrapped.zero_grad(set_to_none=True)
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        losses = _losses(wrapped(**inputs, use_cache=False).logits, batch["labels"])
        losses.sum().backward()
        gradients = {name: parameter.grad_sample for name, parameter in model.named_parameters()}
        return _contracted(losses.detach(), gradients, *weights)

    return run


def backpack(setting: Setting) -> Run:
    """BackPACK's `BatchGrad`."""
    from backpack import backpack as extension
    from backpack import extend
    from backpack.extensions import BatchGrad

    model, batch = setting.model(), setting.batch()
    weights = setting.weights(model)
    model = extend(model.train())

    def run() -> ConfidenceValues:
        model.zero_grad()
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        losses = _losses(model(**inputs, use_cache=False).logits, batch["labels"])
        with extension(BatchGrad()):
            losses.sum().backward()
        without = [name for name, parameter in model.named_parameters() if "grad_batch" not in vars(parameter)]
        if without:
            raise ValueError(f"no gradients by sample for {', '.join(without[:2])} and others like them")
        gradients = {name: parameter.grad_batch for name, parameter in model.named_parameters()}
        return _contracted(losses.detach(), gradients, *weights)

    return run


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """L of every row: all rows count the same positions."""
    targets = labels[:, 1:]
    nll = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return nll.view(targets.shape).sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1)


@torch.no_grad()
def _contracted(
    losses: Tensor, gradients: Mapping[str, Tensor], linear: Mapping[str, Tensor], quadratic: Mapping[str, Tensor]
) -> ConfidenceValues:
    """gradients: (batch, *shape) by name."""
    nothing = torch.zeros(len(losses), dtype=torch.float64)
    first = sum(((g * linear[name]).flatten(1).sum(dim=1).double() for name, g in gradients.items()), nothing)
    second = sum(
        ((g.square() * quadratic[name]).flatten(1).sum(dim=1).double() for name, g in gradients.items()), nothing
    )
    return ConfidenceValues(losses.double(), first, second)


METHODS: dict[str, Callable[[Setting], Run]] = {
    "forward + backward": plain,
    "engine": engine,
    "engine, Fisher": sampled_fisher,
    "one backward a sample": one_backward_a_sample,
    "vmap(grad)": vmap_grad,
    "Opacus": opacus,
    "BackPACK": backpack,
}
