"""How well a model answers: greedy answers, likelihoods of given ones, a neutral text, lm-evaluation-harness.

Imports `results`, `generation`, `gradients` (its token loss), `tasks`, `data` and what is below them.
"""
