"""Bytes that both ends can make, so that a transfer of any size is compared by a digest."""

import hashlib
import random
from collections.abc import Iterator

BLOCK_BYTES = 1_048_573
"""A prime: no buffer size divides it, so a repeated, lost or swapped buffer changes the digest."""

BLOCK = random.Random(7).randbytes(BLOCK_BYTES)


def chunks(size: int) -> Iterator[memoryview]:
    """``size`` bytes, in blocks: byte i is ``BLOCK[i % BLOCK_BYTES]``."""
    block = memoryview(BLOCK)
    while size > 0:
        yield block[:size]
        size -= BLOCK_BYTES


def sha256(size: int) -> str:
    """The digest of the first ``size`` bytes, in hex."""
    digest = hashlib.sha256()
    for chunk in chunks(size):
        digest.update(chunk)
    return digest.hexdigest()
