"""A small base model of real text: the shipped one, and the recipe that builds another from any folder of text."""

from graceful_forgetting.base_model.build import build_base_model
from graceful_forgetting.base_model.config import BaseModelConfig
from graceful_forgetting.base_model.shipped import SHIPPED_NAME, resolve_model_name, shipped_model

__all__ = ["SHIPPED_NAME", "BaseModelConfig", "build_base_model", "resolve_model_name", "shipped_model"]
