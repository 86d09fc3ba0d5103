"""Return freed memory to the system, so that the peak of a command is what it needs at one time."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache

# By default polars' allocator (jemalloc) keeps freed memory for 10 s. These options cost no time. jemalloc reads them
# when polars is imported.
JEMALLOC_OPTIONS = ("_RJEM_MALLOC_CONF", "dirty_decay_ms:200,muzzy_decay_ms:0")
# glibc raises its threshold up to 32 MB. It takes smaller blocks from its heaps and does not return them (mallopt(3)).
MMAP_THRESHOLD_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
MMAP_THRESHOLD_BYTES = 1024 * 1024  # bytes; a lower value costs time and saves no more memory
_M_MMAP_THRESHOLD = -3


def configure_jemalloc() -> None:
    """Set the options of the allocator before anything imports polars. Values that the user has set stay."""
    os.environ.setdefault(*JEMALLOC_OPTIONS)


@cache
def set_mmap_threshold() -> None:
    """Let the C library return large freed blocks to the system at once (MMAP_THRESHOLD_BYTES).

    Takes 4 ms, so it is called only before long work.
    """
    if MMAP_THRESHOLD_VARIABLE in os.environ:
        return
    from ctypes import CDLL  # here: an idle tick does not need it

    with suppress(OSError, AttributeError):  # another C library
        CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
