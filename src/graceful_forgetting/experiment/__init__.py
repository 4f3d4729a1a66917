"""Experiments: the pipeline of stages, its one result file and the statistics over seeds."""
