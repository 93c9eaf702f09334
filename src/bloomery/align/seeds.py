"""Seeds of draws: each follows from what is drawn, and from nothing else."""

import hashlib


def draw_seed(purpose: str, *parts: object) -> int:
    """A number from 0 to 2**63 - 1 that follows from a purpose and from what is named after it."""
    text = "/".join([purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1
