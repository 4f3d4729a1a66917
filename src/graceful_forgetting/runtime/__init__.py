"""What every room stands on: artefacts on disk, fingerprints, random states, progress bars and processes.

Imports no other room.
"""
