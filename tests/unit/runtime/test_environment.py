"""Test the environment: the `.env` file, keys, and addresses of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchgen.core.errors import KeyRefused, SetupError
from batchgen.runtime.environment import api_key, is_loopback, read_environment


def dotenv(root: Path, text: str, mode: int = 0o600) -> None:
    path = root / ".env"
    path.write_text(text, "utf-8")
    path.chmod(mode)


def test_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_BOTH", "environment")
    dotenv(tmp_path, "# C=1\n\nA = plain \nexport B=\"two words\"\nC='x=y'\r\nFROM_BOTH=file\nno sign\n#D=4\n")
    found = read_environment(tmp_path)
    assert {name: found.get(name) for name in ("A", "B", "C", "D", "FROM_BOTH")} == {
        "A": "plain",
        "B": "two words",
        "C": "x=y",
        "D": None,
        "FROM_BOTH": "environment",
    }


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    dotenv(tmp_path, "\ufeffGEMINI_API_KEY=a-key\n")
    assert read_environment(tmp_path)["GEMINI_API_KEY"] == "a-key"


def test_without_an_env_file_there_is_the_environment(tmp_path: Path) -> None:
    assert read_environment(tmp_path) == dict(os.environ)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_an_env_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    dotenv(tmp_path, "GEMINI_API_KEY=secret-value", mode)
    with pytest.raises(SetupError, match="others may read") as raised:
        read_environment(tmp_path)
    assert "chmod 600" in raised.value.do
    assert "secret-value" not in f"{raised.value} {raised.value.do}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_an_env_file_of_one_s_own_is_read(tmp_path: Path, mode: int) -> None:
    dotenv(tmp_path, "A=1", mode)
    assert read_environment(tmp_path)["A"] == "1"


def test_an_env_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(SetupError, match=r"\.env: not UTF-8 text\.$"):
        read_environment(tmp_path)


def test_an_env_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir(mode=0o700)
    with pytest.raises(SetupError, match=r"\.env: Is a directory\.$"):
        read_environment(tmp_path)


def test_a_line_that_sets_no_variable_is_named_and_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dotenv(tmp_path, "A=1\n# a comment\n\nsecret-value\n")
    assert read_environment(tmp_path)["A"] == "1"
    assert caplog.messages == [f"{tmp_path}/.env:4: no NAME=value; this line is ignored"]


@pytest.mark.parametrize("value", ["AIzaSyFine-key_0", " AIzaSyFine-key_0\n", "tgp_v1_x.y"])
def test_a_key_is_taken_without_its_edges(value: str) -> None:
    assert api_key({"GEMINI_API_KEY": value}, "GEMINI_API_KEY") == value.strip()


@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_a_missing_key(value: str | None) -> None:
    variables = {} if value is None else {"GEMINI_API_KEY": value}
    with pytest.raises(KeyRefused, match="GEMINI_API_KEY is not set") as raised:
        api_key(variables, "GEMINI_API_KEY")
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "value", ["two words", "line\nbreak", "tab\tbed", '"quoted"', "'quoted'", "bell\x07", "schlüssel"]
)
def test_a_key_that_no_header_can_carry_is_refused_and_not_told(value: str) -> None:
    with pytest.raises(KeyRefused) as raised:
        api_key({"TOGETHER_API_KEY": value}, "TOGETHER_API_KEY")
    assert value not in f"{raised.value} {raised.value.do}"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8801", True),
        ("http://localhost", True),
        ("http://[::1]:80/x", True),
        ("https://api.together.ai", False),
        ("http://localhost.example.org", False),
        (None, False),
    ],
)
def test_this_machine(url: str | None, loopback: bool) -> None:  # noqa: FBT001
    assert is_loopback(url) is loopback
