"""Fixtures: a finished run with difficult texts, made once, and its report."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from batchgen.reports.html.write import report
from tests.support.bench import Bench
from tests.support.report_page import Page, open_session, troubled


@pytest.fixture(scope="session")
def troubled_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run, made once; no test may write to it."""
    return troubled(tmp_path_factory.mktemp("troubled") / "run").root


@pytest.fixture(scope="session")
def html(troubled_root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report, written once for all tests that only read it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    with closing(open_session(troubled_root)) as one:
        report(one, path, 2000)
    return path.read_text("utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def finished(troubled_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """A copy of it. A report needs no service, no key and no network."""
    shutil.copytree(troubled_root, tmp_path / "run")
    return Bench(tmp_path / "run", None, capsys)  # type: ignore[arg-type] # no request is sent
