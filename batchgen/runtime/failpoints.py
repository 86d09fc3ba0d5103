"""Named points at which a test can kill the process, like a power cut.

Exceptions cannot test durability, because handlers run and buffers are flushed. Each boundary of the submission and
collection protocols calls `failpoint(name)`. It sends SIGKILL to its own process if the environment says so:
BATCHGEN_CRASH=name, or BATCHGEN_CRASH=name:3 for the third time.
"""

from __future__ import annotations

import os
from collections import Counter

_times_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if the environment names this point."""
    wanted, _, nth = os.environ.get("BATCHGEN_CRASH", "").partition(":")
    if name != wanted:
        return
    import signal  # here: every tick calls this function, but only tests reach this line

    _times_passed[name] += 1
    if _times_passed[name] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
