"""Losses of tokens and rows against their definitions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graceful_forgetting.gradients.token_loss import mean_nll, sequence_losses, token_losses, token_nll


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sequence_losses_equal_a_loop_over_rows(data):
    batch, length, vocabulary = data.draw(st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(2, 9)))
    logits = torch.randn(
        batch, length, vocabulary, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    token = st.one_of(st.just(-100), st.integers(0, vocabulary - 1))
    labels = torch.tensor(
        data.draw(st.lists(st.lists(token, min_size=length, max_size=length), min_size=batch, max_size=batch))
    )
    losses = sequence_losses(logits, labels)
    assert losses.shape == (batch,)
    for row in range(batch):
        counted = [t for t in range(1, length) if labels[row, t] != -100]
        if not counted:
            assert losses[row].isnan()
            continue
        terms = [-F.log_softmax(logits[row, t - 1], dim=-1)[labels[row, t]] for t in counted]
        torch.testing.assert_close(losses[row], torch.stack(terms).mean())


def test_sequence_losses_are_float32_and_differentiable():
    logits = torch.randn(2, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([[-100, 1, 2, -100], [-100, -100, -100, 3]])
    losses = sequence_losses(logits, labels)
    assert losses.dtype == torch.float32
    losses.sum().backward()
    counts = (logits.grad != 0).any(dim=-1)
    assert counts.tolist() == [[True, True, False, False], [False, False, True, False]]


def test_every_loss_of_a_row_is_made_of_the_same_tokens():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 11, generator=generator)
    labels = torch.randint(11, (3, 7), generator=generator)
    labels[0, :4] = labels[1, 5:] = -100
    targets, counted = labels[:, 1:], labels[:, 1:] != -100
    nll = token_nll(logits[:, :-1], targets)
    assert (nll[~counted] == 0).all()
    torch.testing.assert_close(token_losses(logits[:, :-1], targets), nll[counted])
    expected = nll.sum(dim=1) / counted.sum(dim=1)
    torch.testing.assert_close(sequence_losses(logits, labels), expected)
    torch.testing.assert_close(mean_nll(logits[:, :-1], targets), expected)
