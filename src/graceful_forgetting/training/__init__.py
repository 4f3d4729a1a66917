"""Stage 5: `LWFTrainer`, and the stages before it in their order.

Imports the rooms of the other stages and what is below them; no world, no run directory, nothing that pre-trains.
"""
