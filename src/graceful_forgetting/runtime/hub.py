"""Whether the hub answers, known in seconds: libraries retry for minutes before they say that it does not."""

import logging
import os
import socket
from functools import cache
from urllib.parse import urlsplit

import datasets
from huggingface_hub import constants, try_to_load_from_cache

logger = logging.getLogger(__name__)
# Seconds in which a hub that can be reached has answered.
_PATIENCE = 5.0


def offline_reason() -> str | None:
    """Why nothing can be loaded from the hub, as words of a sentence; none where it can be reached."""
    if constants.HF_HUB_OFFLINE:
        return f"{constants.ENDPOINT} cannot be reached" if _unreachable() else "HF_HUB_OFFLINE is set"
    return None


def work_offline_if_unreachable() -> None:
    """Let the libraries read their caches alone where the hub does not answer, as `HF_HUB_OFFLINE=1` does."""
    if not constants.HF_HUB_OFFLINE and _unreachable():
        logger.warning(f"{constants.ENDPOINT} cannot be reached: only models and data in the cache are used")
        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True


def check_model_at_hand(argument: str, name: str, revision: str | None) -> None:
    """Refuse a model of the hub that is not in the cache where the hub cannot be reached.

    Raises:
        ConnectionError: names the argument, the reason and the remedy.
        ValueError: no name that a model of the hub can have.
    """
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError as error:
        raise ValueError(f"{argument}={name!r} is neither a model folder nor a name on the hub: {error}") from error
    if isinstance(cached, str):
        return
    work_offline_if_unreachable()
    reason = offline_reason()
    if reason is not None:
        raise ConnectionError(
            f"{argument}={name!r} is no folder and not in the cache of the hub's models, and {reason}: give a folder "
            "that holds a model, download it first (hf download), or use graceful/base-text, which is in the package"
        )


@cache
def _unreachable() -> bool:
    # A proxy resolves names itself, so that a connection of one's own says nothing.
    if constants.HF_HUB_OFFLINE or any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return False
    parts = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_PATIENCE).close()
    except OSError:
        return True
    return False
