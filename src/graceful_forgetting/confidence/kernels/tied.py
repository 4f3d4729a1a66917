"""G_s = D_s + E_s of a parameter that is multiplied with and looked up in one pass, such as tied embeddings.

D_s is dense and E_s has a few rows, those of the tokens that occur. With ⊙ by element, G² = D² + (2 D + E) ⊙ E, and
the second part has the rows of E_s alone: D is reduced by a kernel that never holds it, and what E adds is formed here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from graceful_forgetting.confidence.contributions import Dense, Rows


@dataclass(frozen=True)
class LookedUp:
    """What E adds, by row that occurs: sample and row (n,); (n, columns) float32 to the gradient and to its square."""

    samples: Tensor
    rows: Tensor
    gradient: Tensor
    square: Tensor


def looked_up(dense: Dense, rows: Rows) -> LookedUp:
    """What `rows` adds to G and to G² beside `dense`.

    Holds about as much as `rows.values` in float32, three times.
    """
    samples, found, added = rows.merged()
    return LookedUp(samples, found, added, added * (2 * _rows_of(dense, samples, found) + added))


def _rows_of(dense: Dense, samples: Tensor, rows: Tensor) -> Tensor:
    """Row rows[i] of the dense gradient of sample samples[i], ascending: (n, columns) float32."""
    # (n, positions): each row of G_s is a combination of the rows of right[s].
    factors = dense.left[samples, :, rows].float()
    counts = torch.bincount(samples, minlength=len(dense.right)).tolist()
    parts = zip(factors.split(counts), dense.right, strict=True)
    return torch.cat([part @ right.float() for part, right in parts])
