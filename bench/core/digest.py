"""Digests and seeds, both derived from content and names, never from order or time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK = 1 << 20


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_array(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's shape, type and values (C order); slices are read one by one, so memory maps stay small."""
    state = hashlib.sha256(f"{array.shape}{array.dtype.str}".encode())
    for part in array if array.ndim > 1 else (array,):
        state.update(np.ascontiguousarray(part).tobytes())
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def seed_from(*names: object) -> int:
    """A 63-bit seed from names (study seed, arm, case ...): the same names give the same seed on any machine."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_from(*names: object) -> np.random.Generator:
    """NumPy's PCG64 seeded by `seed_from`."""
    return np.random.default_rng(seed_from(*names))
