"""The hash that names chunks: xxh3_128 where xxhash is installed (20 GB/s), else BLAKE2b of 128 bit.

Both are written into the manifest. They find changes and damage; neither is a defence against someone who
may write to the store, because whoever may do that can run code as the user anyway (snapshots are pickles).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ..manifest import DIGEST_BYTES

Digest = Callable[[Any], bytes]


def _blake2b(data: Any) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


ALGORITHMS: dict[str, Digest] = {"blake2b_128": _blake2b}
PREFERRED = "blake2b_128"
try:
    import xxhash
except ImportError:
    pass
else:
    ALGORITHMS["xxh3_128"] = xxhash.xxh3_128_digest
    PREFERRED = "xxh3_128"
