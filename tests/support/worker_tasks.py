"""Functions for a second process. This module imports little, so that the process starts quickly."""

from __future__ import annotations

import os
import signal


def square(number: int) -> int:
    return number * number


def where(_: int) -> int:
    return os.getpid()


def dies_elsewhere(number: int) -> int:
    if os.environ.get("HERE") != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fails(number: int) -> int:
    if number == 5:
        raise ValueError("not this one")
    return number
