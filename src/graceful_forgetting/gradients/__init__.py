"""Per-sample gradients of a causal language model: the engine, its rules a layer, its kernels, and the slow oracle.

Nothing here knows what a gradient is for. Imports `data`, `config` and `runtime`.
"""
