"""Built or measured, never needed to train: the small base model, and the benchmarks of scoring.

Only `cli` imports this room. It imports `worlds`, `training` and what is below them.
"""
