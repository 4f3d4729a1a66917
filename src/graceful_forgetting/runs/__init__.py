"""A recipe, its run directory and its result: what `graceful run` does.

Imports `worlds`, `training` and what is below them.
"""
