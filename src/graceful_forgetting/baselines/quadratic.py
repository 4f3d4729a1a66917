"""A quadratic pull of the weights towards a point."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class QuadraticPenalty:
    """½ Σ F (θ − anchor)² over chosen parameters.

    Args:
        parameters: θ by name.
        anchor: by name, for every name of `precision` (or of `parameters`); copied to the device of the parameter.
        precision: F by name; none = 1.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        anchor: Mapping[str, Tensor],
        precision: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._terms = []
        for name in parameters if precision is None else precision:
            parameter = parameters[name]
            weight = None if precision is None else precision[name].to(parameter.device)
            # The anchor may be the parameter itself, which moves.
            self._terms.append((parameter, anchor[name].detach().float().to(parameter.device).clone(), weight))

    def value(self) -> Tensor:
        """(), float32, differentiable."""
        total = []
        for parameter, anchor, weight in self._terms:
            square = (parameter.float() - anchor).square()
            total.append((square if weight is None else weight * square).sum())
        return 0.5 * torch.stack([part.to(total[0].device) for part in total]).sum()


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
