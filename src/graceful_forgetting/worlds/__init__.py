"""Controlled worlds: small pre-trained models of which it is known what knowledge is in the way.

A new world is one new folder and one entry in `catalogue.py`. Imports `runtime` alone, so that a world says nothing of
how it is learned.
"""

from graceful_forgetting.worlds.catalogue import WORLDS, build_world, load_world, world_checkpoint
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.difficulty import Difficulty
from graceful_forgetting.worlds.world import Checkpoint, KnowledgeKind, World

__all__ = [
    "WORLDS",
    "Checkpoint",
    "Difficulty",
    "KnowledgeKind",
    "World",
    "WorldDefinition",
    "build_world",
    "load_world",
    "world_checkpoint",
]
