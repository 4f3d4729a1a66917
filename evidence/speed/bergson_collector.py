"""Speed and memory of scoring against bergson, the library of EleutherAI for gradients by sample.

    pip install --target peers --no-deps bergson==0.26.* simple-parsing docstring-parser jaxtyping wadler-lindig
    pip install --target peers --no-deps natsort petname ml-dtypes
    PYTHONPATH=peers python -m evidence.speed.bergson_collector [--shape 135M] [--repetitions 7] [--output FILE]

bergson has no collector that contracts a gradient as the paper's confidence needs it. `TermsCollector` is one in its
hooks: it forms ⟨V, g⟩ and Σ F g² of each sample as soon as a layer's gradient is there. bergson's hooks see linear
layers alone, so that both sides score the linear layers of the blocks, and neither embeddings nor norms. The unit is
one plain forward and backward for all parameters. All run in turn in one process; memory is what a call adds in a
process of its own. The error is against one backward pass a sample in float64.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from bergson.collector.collector import HookCollectorBase
from torch import Tensor, nn

from graceful_forgetting.gradients.oracle import ConfidenceValues
from graceful_forgetting.lab.bench.confidence import benchmark_confidence, table
from graceful_forgetting.lab.bench.methods import METHODS, Run, Setting
from graceful_forgetting.runtime.artifacts import write_json

NAME = "bergson"


@dataclass(frozen=True)
class Blocks(Setting):
    """V and F of the linear layers of the blocks alone."""

    def weights(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        linear, quadratic = (
            {name: tensor for name, tensor in weights.items() if name.endswith("_proj.weight")}
            for weights in super().weights(model)
        )
        return linear, quadratic


@dataclass(kw_only=True)
class TermsCollector(HookCollectorBase):
    """⟨V, g⟩ and Σ F g² of every sample of a batch, by bergson's hooks."""

    linear_weights: Mapping[str, Tensor]
    quadratic_weights: Mapping[str, Tensor]

    def setup(self) -> None:
        self.linear: Tensor | float = 0.0
        self.quadratic: Tensor | float = 0.0

    def teardown(self) -> None:
        pass

    def process_batch(self, indices: list[int], **kwargs: object) -> None:
        pass

    def backward_hook(self, module: nn.Module, g: Tensor) -> None:
        gradient = self._compute_gradient(module, g)  # (samples, parameters of the layer)
        name = f"{module._name}.weight"
        self.linear = self.linear + gradient @ self.linear_weights[name].flatten()
        self.quadratic = self.quadratic + gradient.square_() @ self.quadratic_weights[name].flatten()


def bergson(setting: Setting) -> Run:
    """One forward and one backward of the batch, with bergson's hooks on the linear layers of the blocks."""
    model, batch = setting.model(), setting.batch()
    weights = setting.weights(model)
    targets = {name.removesuffix(".weight") for name in weights[0]}
    # As bergson's own workers do: weights need no gradient of the batch, activations need theirs.
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)
    labels = batch.pop("labels")

    def run() -> ConfidenceValues:
        collector = TermsCollector(
            model=model, target_modules=targets, linear_weights=weights[0], quadratic_weights=weights[1]
        )
        with collector:
            logits = model(**batch, use_cache=False).logits[:, :-1]
            losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").mean(dim=1)
            losses.sum().backward()
        model.zero_grad()
        assert isinstance(collector.linear, Tensor)
        assert isinstance(collector.quadratic, Tensor)
        return ConfidenceValues(losses.detach().double(), collector.linear.double(), collector.quadratic.double())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="135M")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    METHODS[NAME] = bergson
    setting = Blocks(arguments.tokens, 0, arguments.batch_size, tied=True, shape=arguments.shape)
    result = benchmark_confidence(
        [setting],
        repetitions=arguments.repetitions,
        threads=arguments.threads,
        methods=["engine", NAME],
        announce=print,
    )
    print(table(result))
    if arguments.output:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
