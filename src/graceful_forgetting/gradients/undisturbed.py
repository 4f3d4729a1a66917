"""Differentiating a model without leaving a trace on it."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

from graceful_forgetting.runtime.internals import own_precision


@contextmanager
def differentiating(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Evaluation mode, and gradients for the parameters `names` only, inside the block.

    Evaluation mode makes L(x) deterministic (no dropout) and turns gradient checkpointing off, which
    transformers applies in training mode only. The mixed precision of a trainer that holds the model is off: gradients
    are of the weights' own type, whether a trainer has had the model before or not.

    Raises:
        ValueError: a name that the model has no parameter of.
    """
    parameters = dict(model.named_parameters())
    unknown = sorted(set(names) - set(parameters))
    if unknown:
        raise ValueError(f"the model has no parameter {', '.join(unknown)}")
    modes = {module: module.training for module in model.modules()}
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    model.eval()
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    try:
        with own_precision(model):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
