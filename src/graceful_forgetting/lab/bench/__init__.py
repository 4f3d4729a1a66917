"""Measurements of the scoring engine: exactness by architecture, speed and memory against its alternatives."""
