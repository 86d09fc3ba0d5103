"""Try the wheel and the sdist that `make dist` has built, outside of the repository: `make check-dist`.

    python tests/packages/check_dist.py DIST      # a folder with one wheel and one sdist

The wheel must hold the files of batchgen/ and nothing else; the sdist all files that git knows. The wheel is installed
in a new virtual environment in a temporary folder; there the commands run without a key. The packages of the small
model are installed, and a demo runs with it. Then a part of the tests runs in the unpacked sdist, with the Python of
this script, which needs requirements-dev.txt. Takes three to seven minutes, the network for pip, and 1 GB of disk.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from batchgen import __version__
from batchgen.core.wording import COMMANDS
from batchgen.emulator.backends.builtin import DEMO_INSTALL

PORT = 18811
SDIST_TESTS = ("tests/project", "tests/unit/core", "tests/unit/cli", "tests/end_to_end/test_demo.py")


def main() -> None:
    dist = Path(sys.argv[1]).resolve()
    wheel, sdist = dist / f"batchgen-{__version__}-py3-none-any.whl", dist / f"batchgen-{__version__}.tar.gz"
    assert {wheel, sdist} == set(dist.iterdir()), sorted(dist.iterdir())
    with tempfile.TemporaryDirectory(prefix="batchgen-dist-") as name:
        folder = Path(name)
        _compare_wheel(wheel)
        unpacked = _unpack(sdist, folder)
        _try(_install(wheel, folder), folder)
        _run([sys.executable, "-m", "pytest", "-q", *SDIST_TESTS], cwd=unpacked)
    print("the wheel and the sdist work outside of the repository")


def _compare_wheel(wheel: Path) -> None:
    """Raise AssertionError unless the wheel holds the files of batchgen/ on disk, and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"batchgen-{__version__}.dist-info/")}
    files = [path for path in (REPOSITORY / "batchgen").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    _assert_same(names, {str(path.relative_to(REPOSITORY)) for path in files})


def _assert_same(packed: set[str], wanted: set[str]) -> None:
    assert packed == wanted, f"too many: {sorted(packed - wanted)}; missing: {sorted(wanted - packed)}"


def _unpack(sdist: Path, folder: Path) -> Path:
    """Unpack the sdist. It must hold every file that git knows, and besides only what setuptools writes."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / f"batchgen-{__version__}"
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    made = {name for name in files if name.startswith("batchgen.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    if (REPOSITORY / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        _assert_same(files - made, set(listed.stdout.splitlines()))
    return root


def _install(wheel: Path, folder: Path) -> Path:
    """Install the wheel in a new virtual environment. Returns its folder of programs."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    _run([str(programs / "pip"), "install", "--quiet", "--no-compile", f"{wheel}[serve]"], cwd=folder)
    _run([str(programs / "pip"), "check"], cwd=folder)
    return programs


def _try(programs: Path, folder: Path) -> None:
    """Run the commands that need no key, as a new user would."""
    program, work = str(programs / "batchgen"), folder / "work"
    work.mkdir()
    assert _run([program, "--version"], cwd=work) == f"batchgen, version {__version__}\n"
    for command in COMMANDS:
        _run([program, command, "--help"], cwd=work)
    assert "_batchgen_completion" in _run([program], cwd=work, _BATCHGEN_COMPLETE="bash_source")
    _run([program, "-q", "demo", "--backend", "scripted"], cwd=work)
    for command in ("status", "verify", "receipt", "estimate", "prompts", "report"):
        _run([program, "--root", "demo", command], cwd=work)
    assert "<html" in (work / "demo" / "data" / "report.html").read_text("utf-8")
    for form, output in (("preference", "dpo"), ("parquet", "dialogues.parquet")):
        _run([program, "--root", "demo", "export", "--format", form, "--output", output], cwd=work)
    seeds = _run([str(programs / "python"), "-c", "import batchgen; print(batchgen.__path__[0])"], cwd=work).strip()
    assert Path(seeds).is_relative_to(folder), "another batchgen was imported"
    _run([program, "--root", "run", "prepare", "--input", f"{seeds}/examples.jsonl", "--limit", "5"], cwd=work)
    _run([program, "--root", "run", "estimate", "--models"], cwd=work)
    _serve(program, work)
    _run([program, "demo", "--output", "model"], cwd=work, status=2)
    _run([str(programs / "pip"), *shlex.split(DEMO_INSTALL)[1:], "--quiet"], cwd=work)
    _run([program, "-q", "demo", "--output", "model", "--conversations", "2"], cwd=work)


def _serve(program: str, work: Path) -> None:
    """Start `serve`, read /metrics, and end it. Raises OSError if it does not answer within 30 seconds."""
    ports = [f"--{name}-port={PORT + at}" for at, name in enumerate(("gemini", "together", "openai"))]
    command = [program, "-q", "serve", "--backend", "scripted", *ports]
    print("$", shlex.join(command), flush=True)
    with subprocess.Popen(command, cwd=work, env=_environment()) as process:
        try:
            assert b"batchgen_serve_rows" in _page(f"http://127.0.0.1:{PORT}/metrics", deadline=time.monotonic() + 30)
        finally:
            process.terminate()
        assert process.wait(30) == 0


def _page(address: str, deadline: float) -> bytes:
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as page:
                return bytes(page.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _environment(**more: str) -> dict[str, str]:
    """Return what pip and the program need of the environment: no key, and no path to the repository."""
    kept = ("PATH", "HOME", "LANG", "PIP_CERT", "PIP_INDEX_URL", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"NO_PROXY": "127.0.0.1"} | more


def _run(command: list[str], *, cwd: Path, status: int = 0, **environment: str) -> str:
    """Run a command, and return its stdout. Raises AssertionError for another status than the expected one."""
    print("$", shlex.join(command), flush=True)
    done = subprocess.run(
        command, cwd=cwd, env=_environment(**environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main()
