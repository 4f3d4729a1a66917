"""Per-sample gradients as short vectors: each weight gradient is projected at random on both of its sides."""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graceful_forgetting.gradients.contributions import as_matrix


class ProjectedGradients:
    """P_s = A G_s Bᵀ of every weight gradient G_s of a batch, in `features`, (batch, width) float32.

    A and B have entries ±1/√k, drawn once for each parameter, so that ⟨P_s, P_r⟩ estimates ⟨G_s, G_r⟩ without bias; a
    side of k or fewer dimensions is left as it is. Since G_s = Σ_t left[s, t] right[s, t]ᵀ, P_s comes from the
    projected factors, and costs less than G_s would. k is the same for all parameters and the largest for which all P_s
    together have `width` numbers or fewer, but 1 at least. The projection of both factors is that of LoGra (Choe et
    al., *What is Your Data Worth to GPT?*, 2024, arXiv 2405.13954, §3.1).

    Args:
        parameters: those whose gradients come, by name.
        width: numbers a sample at most; as many as there are parameters, or more, and nothing is projected.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], width: int) -> None:
        shapes = {name: as_matrix(parameter.detach()).shape for name, parameter in parameters.items()}
        self.size = _largest_side(list(shapes.values()), width)
        self._sides = {
            name: (
                _signs(f"{name}, rows", self.size, rows, parameters[name].device),
                _signs(f"{name}, columns", self.size, columns, parameters[name].device),
            )
            for name, (rows, columns) in shapes.items()
        }
        self._parts: dict[str, tuple[slice, int, int]] = {}
        start = 0
        for name, (rows, columns) in shapes.items():
            height, breadth = min(self.size, rows), min(self.size, columns)
            self._parts[name] = (slice(start, start + height * breadth), height, breadth)
            start += height * breadth
        self.width = start
        self.features = torch.empty(0)
        self._memory = torch.empty(0)

    def start(self, batch: int, device: torch.device) -> None:
        # Reused: fresh memory costs more than what is written to it.
        if self._memory.shape[0] < batch or self._memory.device != device:
            self._memory = torch.empty(batch, self.width, device=device)
        self.features = self._memory[:batch].zero_()

    def place(self, name: str) -> slice:
        """The columns of `features` that a parameter has."""
        return self._parts[name][0]

    def _part(self, name: str) -> Tensor:
        """(batch, height, breadth): where P of a parameter is."""
        columns, height, breadth = self._parts[name]
        return self.features[:, columns].view(-1, height, breadth)

    def product(self, name: str, left: Tensor, right: Tensor) -> bool:
        a, b = self._sides[name]
        left, right = _projected(left.float(), a), _projected(right.float(), b)
        self._part(name).add_(torch.bmm(left.mT, right))
        return True

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        a, b = self._sides[name]
        part = self._part(name)[sample : sample + len(block)]
        projected = _projected(block, b)
        if a is None:
            part[:, row : row + block.shape[1]] += projected
        else:
            part += a[:, row : row + block.shape[1]] @ projected

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor, taken: Tensor | None = None) -> None:  # noqa: ARG002
        a, b = self._sides[name]
        projected, part = _projected(values, b), self._part(name)
        samples = samples.to(part.device)
        if a is None:
            part.index_put_((samples, rows), projected.to(part), accumulate=True)
            return
        for sample in samples.unique().tolist():
            mine = samples == sample
            part[sample] += a[:, rows[mine]] @ projected[mine]


def projection_bytes(parameters: Mapping[str, nn.Parameter], width: int) -> int:
    """What A and B of all parameters take in memory."""
    shapes = [as_matrix(parameter.detach()).shape for parameter in parameters.values()]
    size = _largest_side(shapes, width)
    return sum(4 * size * count for shape in shapes for count in shape if count > size)


def _projected(values: Tensor, side: Tensor | None) -> Tensor:
    """The last dimension projected."""
    return values if side is None else values @ side.mT


def _signs(name: str, size: int, count: int, device: torch.device) -> Tensor | None:
    """(size, count) of ±1/√size, the same for a name wherever it is drawn; None where there is nothing to shorten."""
    if count <= size:
        return None
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    drawn = torch.randint(0, 2, (size, count), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return ((drawn.float() * 2 - 1) / math.sqrt(size)).to(device)


def _largest_side(shapes: list[torch.Size], width: int) -> int:
    """The largest k with Σ min(k, rows) min(k, columns) ≤ width, at least 1."""

    def total(size: int) -> int:
        return sum(min(size, rows) * min(size, columns) for rows, columns in shapes)

    low, high = 1, max(max(shape) for shape in shapes)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total(middle) <= width else (low, middle - 1)
    return low
