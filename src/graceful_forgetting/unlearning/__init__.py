"""The unlearning updates between learning updates: when, on what, which objective, and when to stop."""
