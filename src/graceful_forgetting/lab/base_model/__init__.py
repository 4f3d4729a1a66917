"""The recipe that builds a small base model from any folder of text; the package ships one that it made."""

from graceful_forgetting.lab.base_model.build import build_base_model
from graceful_forgetting.lab.base_model.config import BaseModelConfig

__all__ = ["BaseModelConfig", "build_base_model"]
