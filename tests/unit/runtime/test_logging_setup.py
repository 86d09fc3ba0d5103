"""Test log lines: keys are masked, the current stderr is used, and a line that cannot be written stops no command."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from io import StringIO

import pytest

from batchgen.runtime.logging_setup import configure, log

KEY = "AIza" + "k" * 35


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers)
    configure(verbose=False, quiet=False)
    yield
    root.handlers[:] = before


def test_keys_are_masked_in_our_lines_and_in_those_of_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("sent with %s", KEY)
    logging.getLogger("a.library").warning("refused: %s", KEY)
    logging.getLogger("a.library").info("not shown")
    assert capsys.readouterr().err == "sent with ***\nrefused: ***\n"


def test_a_line_whose_arguments_do_not_fit_is_written_masked(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("a.library").warning(*("two %s %s", KEY))
    assert capsys.readouterr().err == "two %s %s ('***',)\n"


def test_configuring_again_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    configure(verbose=False, quiet=True)
    log.info("not shown")
    log.warning("once")
    logging.getLogger("a.library").warning("once")
    assert capsys.readouterr().err == "once\nonce\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, None])
def test_a_line_that_cannot_be_written_is_dropped(number: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    if number is None:
        stderr.close()
    else:
        error = OSError(number, os.strerror(number))
        stderr.write = lambda _: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    log.warning("dropped")
