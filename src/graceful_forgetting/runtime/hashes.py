"""The hash behind keys and fingerprints; light to import, for what needs no model."""

import hashlib
import json
from typing import Any

_DIGEST_BYTES = 16


def new_hasher() -> hashlib.blake2b:
    """What everything is hashed with: BLAKE2b of 128 bit."""
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def fingerprint_json(obj: Any) -> str:
    """Hash of a JSON-able object; the order of keys does not matter. Raises `TypeError` for anything else."""
    hasher = new_hasher()
    hasher.update(json.dumps(obj, sort_keys=True, ensure_ascii=False).encode())
    return hasher.hexdigest()
