"""Forming per-sample weight gradients and reducing them in one place, without a round trip through memory."""
