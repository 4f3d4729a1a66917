"""The version of this package, which the keys of its artefacts hold."""

__version__ = "0.1.0"
