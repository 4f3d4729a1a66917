"""Sweeps: a grid of learning x forgetting x setting x method x seed, one result file a cell.

Imports `runs` and what is below it.
"""
