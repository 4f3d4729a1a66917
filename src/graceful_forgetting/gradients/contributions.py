"""Per-sample gradients of one parameter from one use of it, in forms that hold no more than activations do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """G_s = Σ_t left[s, t] right[s, t]ᵀ: left (batch, positions, rows), right (batch, positions, columns)."""

    left: Tensor
    right: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The sum of several."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.left for part in parts], dim=1), torch.cat([part.right for part in parts], dim=1))

    def in_float32(self) -> Self:
        """The same; blocks of it cost no conversion each."""
        return type(self)(self.left.float(), self.right.float())

    def at(self, rows: Tensor) -> Tensor:
        """Rows (batch, n) of the gradients, each sample's own: (batch, n, columns) float32."""
        chosen = self.left.gather(2, rows.unsqueeze(1).expand(-1, self.left.shape[1], -1))
        return torch.bmm(chosen.float().mT, self.right.float())

    def write_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        """Set `block`, (samples, rows, columns) float32, to that part of the gradients."""
        left, right = self.left[samples, :, rows], self.right[samples]
        if len(block) == 1:
            torch.mm(left[0].T, right[0], out=block[0])
        else:
            torch.bmm(left.mT, right, out=block)

    def add_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        """Add that part of the gradients."""
        block.baddbmm_(self.left[samples, :, rows].mT, self.right[samples])


@dataclass(frozen=True)
class Rows:
    """G_s = Σ_t e(ids[s, t]) values[s, t]ᵀ with e(i) the i-th unit vector.

    ids: (batch, positions), below the number of rows; values: (batch, positions, columns).
    """

    ids: Tensor
    values: Tensor

    def add_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        """Add that part of the gradients to `block`, (samples, rows, columns) float32."""
        ids, values = self.ids[samples], self.values[samples]
        inside = (ids >= rows.start) & (ids < rows.stop)
        sample = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(ids)
        target = (sample * block.shape[1] + ids - rows.start)[inside]
        block.view(-1, block.shape[2]).index_add_(0, target, values[inside].float())

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The sum of several."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.ids for part in parts], dim=1), torch.cat([part.values for part in parts], dim=1))

    def merged(self) -> "MergedRows":
        """The rows of all G_s that occur, each once."""
        samples = torch.arange(len(self.ids), device=self.ids.device).unsqueeze(1).expand_as(self.ids)
        stride = int(self.ids.max()) + 1
        keys, index = torch.unique(samples * stride + self.ids, return_inverse=True)
        values = self.values.new_zeros((len(keys), self.values.shape[-1]), dtype=torch.float32)
        values.index_add_(0, index.flatten(), self.values.flatten(0, 1).float())
        return MergedRows(keys // stride, keys % stride, values, index.flatten())


class MergedRows(NamedTuple):
    """Rows of per-sample gradients that are not 0.

    samples, rows: (n,), values: (n, columns) float32; places: (batch · positions,), where the row of each position is.
    """

    samples: Tensor
    rows: Tensor
    values: Tensor
    places: Tensor


@dataclass(frozen=True)
class Direct:
    """G_s itself, (batch, rows, columns); for parameters that are small vectors."""

    gradient: Tensor

    def in_float32(self) -> Self:
        """The same; blocks of it cost no conversion each."""
        return type(self)(self.gradient.float())

    def write_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        """Set `block`, (samples, rows, columns) float32, to that part of the gradients."""
        block.copy_(self.gradient[samples, rows])

    def add_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        """Add that part of the gradients."""
        block.add_(self.gradient[samples, rows])


@dataclass(frozen=True)
class Routed:
    """G_s, row e = Σ_n left[n] right[n]ᵀ, flattened, over the tokens n of sample s that were routed to expert e.

    samples, experts: (tokens,); left: (tokens, a), right: (tokens, b), with a · b the columns of the parameter. A
    token that goes to several experts stands once for each.
    """

    samples: Tensor
    experts: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The sum of several."""
        return cls(
            torch.cat([part.samples for part in parts]),
            torch.cat([part.experts for part in parts]),
            torch.cat([part.left for part in parts]),
            torch.cat([part.right for part in parts]),
        )

    def pieces(self, limit: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The rows that occur, about `limit` elements at a time: sample (n,), expert (n,), values (n, columns)."""
        if len(self.samples) == 0:
            return
        stride = int(self.experts.max()) + 1
        keys = self.samples * stride + self.experts
        order = torch.argsort(keys, stable=True)
        left, right = self.left[order].float(), self.right[order].float()
        found, counts = torch.unique_consecutive(keys[order], return_counts=True)
        at_once = max(1, limit // (left.shape[1] * right.shape[1]))
        sizes = counts.tolist()
        lefts, rights = left.split(sizes), right.split(sizes)
        for first in range(0, len(sizes), at_once):
            part = slice(first, first + at_once)
            pairs = zip(lefts[part], rights[part], strict=True)
            values = torch.stack([(a.mT @ b).flatten() for a, b in pairs])
            yield found[part] // stride, found[part] % stride, values


Contribution = Dense | Rows | Direct | Routed


def as_matrix(parameter: Tensor) -> Tensor:
    """A parameter as (rows, columns): a vector is one row, further dimensions join the columns."""
    if parameter.dim() < 2:
        return parameter.reshape(1, -1)
    return parameter.reshape(len(parameter), -1)
