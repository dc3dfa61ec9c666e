"""Hashes that decide: the same on every machine, in every process, for ever.

Ids, splits, seeds and random choices of synthesis are all hashes of what they belong to, never draws from a
shared stream; so order, interruption and parallelism cannot change them.
"""

from __future__ import annotations

import hashlib


def hash_hex(*parts: object, size: int = 8) -> str:
    """Return ``2 * size`` hex digits that depend on every part (as ``str``) and on where each ends."""
    return _digest(parts, size).hex()


def hash_int(*parts: object, bits: int = 64) -> int:
    """Return an integer in [0, 2**bits), bits at most 64."""
    return int.from_bytes(_digest(parts, 8), "big") >> (64 - bits)


def hash_unit(*parts: object) -> float:
    """Return a number in [0, 1), uniform over different ``parts``."""
    return hash_int(*parts, bits=53) / (1 << 53)


def _digest(parts: tuple[object, ...], size: int) -> bytes:
    # Lengths in front keep ("ab", "c") and ("a", "bc") apart; JSON may hold lone surrogates.
    text = "".join([f"{len(part)}:{part}" for part in map(str, parts)])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()
