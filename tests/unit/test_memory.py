"""Estimates of memory against what is known of a pass."""

import torch

from graceful_forgetting.gradients.memory import forward_bytes


def test_a_forward_pass_is_estimated_at_its_logits_and_one_block(make_model) -> None:
    model = make_model(vocab_size=4096)
    row = {name: torch.ones(1, 9, dtype=torch.long) for name in ("input_ids", "attention_mask", "labels")}
    # q, o and down of width 32, k and v of 16; gate and up of width 48.
    numbers = 8 * 4096 + 9 * (3 * 32 + 2 * 16 + 2 * 48)
    assert forward_bytes(model, row, 1) == 4 * numbers + 4 * numbers // 5
    assert forward_bytes(model, row, 3) == 3 * forward_bytes(model, row, 1)
    half = model.to(torch.bfloat16)
    assert forward_bytes(half, row, 1) == 2 * numbers + 2 * numbers // 5
