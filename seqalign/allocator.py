"""One setting of the C library's allocator: memory that a step frees stays for the next.

By default glibc gives large blocks back to the kernel as they are freed and fetches them anew, page
by page, in the next step: an eighth of the time of a run on a CPU. The price is that up to
`KEPT` bytes of freed memory stay with the process.

References:
    mallopt(3), Linux manual page: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["KEPT", "keep_freed_memory"]

KEPT = 2**29
"""Bytes at the end of the heap that are not given back."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# larger blocks are mapped and unmapped as before; glibc's own limit
_LARGEST = 2**25


def keep_freed_memory() -> bool:
    """Let the process keep what it frees; return whether that was set.

    Nothing is done where the allocator is not glibc's, or where the user has set it in the
    environment, by MALLOC_... or GLIBC_TUNABLES.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST))
