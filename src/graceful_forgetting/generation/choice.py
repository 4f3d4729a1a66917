"""Choosing the next token: greedily, or by one random stream a row."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from graceful_forgetting.generation.requests import Request


class TokenChoice(LogitsProcessor):
    """Makes the choice itself, leaving it alone in the scores, and notes its log-probability.

    A sampled token is the quantile of the distribution at this temperature at a number drawn uniformly for this row
    and step: it depends on the row's own seed alone, not on the rows beside it, the batch size or the device.

    Args:
        quantiles: (rows, steps) float64 in [0, 1), one column a token to come; None chooses greedily.
        temperature: of the softmax that is sampled from; not used with greedy choice.
        barred: numbers of rows, and ids of tokens that are not chosen as the next token of these; none: no tokens.
    """

    def __init__(
        self, quantiles: Tensor | None, temperature: float, barred: tuple[list[int], list[int]] | None = None
    ) -> None:
        self._quantiles, self._temperature, self._barred = quantiles, temperature, barred
        self._noted: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 (the library's)
        allowed = scores
        if self._barred is not None and not self._noted:
            rows, tokens = self._barred
            allowed = scores.clone()
            allowed[torch.tensor(rows)[:, None], torch.tensor(tokens)] = -torch.inf
        if self._quantiles is None:
            chosen = allowed.argmax(dim=-1, keepdim=True)
        else:
            chosen = _at_quantile(allowed / self._temperature, self._quantiles[:, len(self._noted), None])
        # At temperature 1, with nothing barred: of the model itself.
        self._noted.append(scores.gather(1, chosen) - scores.logsumexp(dim=-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    @property
    def log_probabilities(self) -> Tensor:
        """(rows, steps so far) natural log-probabilities of the chosen tokens under the model, float32."""
        return torch.cat(self._noted, dim=1)


def draw_quantiles(requests: Sequence[Request], steps: int, device: torch.device) -> Tensor:
    """(requests, steps) float64: each row from a stream of its own, made on the CPU so that devices agree."""
    drawn = [
        torch.rand(steps, generator=torch.Generator().manual_seed(request.seed), dtype=torch.float64)
        for request in requests
    ]
    return torch.stack(drawn).to(device)


def _at_quantile(scores: Tensor, quantiles: Tensor) -> Tensor:
    """(rows, 1) tokens: the first whose cumulative probability exceeds the row's quantile."""
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    # Rounding may leave the total beside 1.
    chosen = torch.searchsorted(cumulative, quantiles * cumulative[:, -1:], right=True)
    return chosen.clamp(max=scores.shape[1] - 1)
