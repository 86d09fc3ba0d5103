"""`slow`: mark one case of a parametrised test, as `@pytest.mark.slow` marks a whole test."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*case: Any) -> Any:
    """Return a case that `make test` leaves out, because it repeats what another case of its test shows."""
    return pytest.param(*case, marks=pytest.mark.slow)
