"""Named points at which a test may kill the process, as a power cut would.

Durability cannot be tested by exceptions: handlers run, buffers are flushed. So each boundary of the submission and
collection protocols calls `crashpoint(name)`, which sends SIGKILL to its own process when the environment asks for it:
BATCHGEN_CRASH=name or BATCHGEN_CRASH=name:3 (the third time the point is passed).
"""

from __future__ import annotations

import os
from collections import Counter

_times_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here by SIGKILL if the environment names this point."""
    wanted, _, nth = os.environ.get("BATCHGEN_CRASH", "").partition(":")
    if name != wanted:
        return
    import signal  # here: every tick passes here, and none but a test's goes further

    _times_passed[name] += 1
    if _times_passed[name] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
