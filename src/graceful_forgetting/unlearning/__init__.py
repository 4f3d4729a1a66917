"""The unlearning updates between learning updates: when, on what, which objective, and when to stop.

Imports `baselines`, `selection`, `confidence`, `posterior` and what is below them.
"""
