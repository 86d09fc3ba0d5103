"""Check what deploy/ holds: the Containerfile and the systemd units. `make check-container` runs the former's steps."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest

from batchgen.cli.main import cli
from batchgen.core.errors import SetupError, Temporary
from tests.support.bench import REPOSITORY
from tests.support.containerfile import stages

CONTAINERFILE = REPOSITORY / "deploy" / "Containerfile"
UNITS = sorted((REPOSITORY / "deploy" / "systemd").iterdir())
PROGRAM = "/opt/batchgen/bin/batchgen"


def test_a_linter_finds_nothing_in_the_containerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, CONTAINERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_is_built_from_a_pinned_base_and_runs_as_nobody_special() -> None:
    found = stages(CONTAINERFILE)
    assert {stage.base for stage in found} == {"docker.io/library/debian:13.2-slim"}
    steps = [step for stage in found for step in stage.instructions]
    assert "ADD" not in {step.name for step in steps}
    last = found[-1]
    assert last.last("USER").text == "10001:10001"
    assert last.last("ENTRYPOINT").words == [PROGRAM]
    for name in ("ENTRYPOINT", "CMD"):
        assert last.last(name).text.startswith("["), "a shell as process 1 would not pass on SIGTERM"
    assert not [step for step in steps if re.search(r"KEY|TOKEN|SECRET", step.text)]


def test_every_copied_path_exists_and_is_sent_to_the_builder() -> None:
    sent = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    names = {stage.name for stage in stages(CONTAINERFILE)}
    copied = []
    for stage in stages(CONTAINERFILE):
        for step in stage.instructions:
            if step.name == "COPY":
                *sources, _ = step.words
                copied += [] if sources[0].removeprefix("--from=") in names else sources
    assert copied
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in sent
    assert "*" in sent
    assert not [line for line in sent if line.startswith("!") and line[1:] not in copied]
    for line in (REPOSITORY / "pyproject.toml").read_text("utf-8").splitlines():
        for needed in re.findall(r'"(\w[\w-]*\.(?:txt|md)|LICENSE)"', line):
            assert needed in copied, f"the package is built with {needed}"


def section(path: Path, name: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # systemd's names have capitals
    parser.read_string(path.read_text("utf-8"))
    return parser[name]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text("utf-8")
        (tmp_path / unit.name).write_text(text.replace(PROGRAM, shutil.which("true") or ""), "utf-8")
    units = [tmp_path / unit.name for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    units[0].write_text(units[0].read_text("utf-8") + "\n[Service]\nNoSuchSetting=1\n", "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert "NoSuchSetting" in done.stderr  # a mistake would have been found


@pytest.mark.parametrize("path", [path for path in UNITS if path.suffix == ".service"], ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists(path: Path) -> None:
    service = section(path, "Service")
    program, *words = shlex.split(service["ExecStart"].replace("$SERVE_OPTIONS", "--backend http://127.0.0.1:8000/v1"))
    assert program == PROGRAM
    context = cli.make_context("batchgen", [word.replace("/var/lib", "/tmp") for word in words])  # noqa: S108 - not made
    name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
    assert name
    assert command
    parsed = command.make_context(name, rest, parent=context)
    if name == "serve":
        assert parsed.params["grace"] < int(service["TimeoutStopSec"])
        assert service["RestartPreventExitStatus"] == str(SetupError.exit_code)
    else:
        assert str(Temporary.exit_code) in service["SuccessExitStatus"].split()
        assert parsed.params["advance"]
    assert isinstance(context, click.Context)


def test_the_units_and_the_image_put_the_program_in_one_place() -> None:
    texts = [path.read_text("utf-8") for path in (*UNITS, CONTAINERFILE)]
    assert all("/opt/batchgen" in text for text in texts if "ExecStart" in text or "ENTRYPOINT" in text)
    assert {path.name for path in UNITS} == {"batchgen@.service", "batchgen@.timer", "batchgen-serve.service"}
    assert fnmatch(section(UNITS[-1], "Timer")["OnCalendar"], "[*]:0/5")
