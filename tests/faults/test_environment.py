"""Test the program in other environments: cron, other locales, proxies, foreign certificates (37).

A test starts a process only if it needs one. If only a variable matters, the command runs in the test's process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.bench import GEMINI_KEY, REPOSITORY, TOGETHER_KEY, Bench, Result, seeds
from tests.support.invariants import ROUNDS, Make, end, finished, undisturbed
from tests.support.provider_facts import PROVIDERS, URL_VARIABLE

CONVERSATIONS = 3
BARE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def expected(make_bench: Make) -> dict[str, bytes]:
    return undisturbed(make_bench, CONVERSATIONS)


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


def start(bench: Bench) -> Bench:
    bench.configure(ROUNDS)
    assert bench.prepare(seeds(CONVERSATIONS)).code == 0
    return bench


def process(
    environment: dict[str, str], *arguments: str, cwd: Path | str = "/", install: Path = REPOSITORY
) -> subprocess.CompletedProcess[bytes]:
    """Run the program with the given environment and no other variable."""
    command = [sys.executable, str(install / "cli.py"), *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, check=False, timeout=120)


def needed(bench: Bench) -> dict[str, str]:
    """The keys and addresses only: no PATH, no HOME, no PYTHONPATH."""
    return {
        name: value for name, value in bench.environment.items() if name.startswith(("GEMINI", "TOGETHER", "GOOGLE"))
    }


# ---------------------------------------------------------------- cron, 37


@pytest.mark.fault(
    37,
    "cron: no HOME, no PATH, another directory, an ASCII locale",
    injected="empty environment; texts and paths that are not ASCII",
    seen="the same result",
)
@pytest.mark.slow
def test_37_cron_environment(make_bench: Make) -> None:
    """No HOME, no PATH, another directory, an ASCII locale, and texts and a root that are not ASCII."""
    bench = make_bench(root="wörkshop 数据")
    bench.configure(ROUNDS)
    rows = [{name: f"{text} – naïve 数据" for name, text in seed.items()} for seed in seeds(CONVERSATIONS)]
    assert bench.prepare(rows).code == 0
    cron = {**needed(bench), **BARE}
    root = ("--root", str(bench.root))
    shown = process(cron, "-v", *root, "submit", "--stage", "question", "--dry-run")
    assert shown.returncode == 0
    assert "数据".encode() in shown.stdout
    latin = process({**cron, "PYTHONIOENCODING": "latin-1"}, "-v", *root, "submit", "--stage", "question", "--dry-run")
    assert latin.stdout == shown.stdout
    for arguments in (("-v", "collect", "--advance"), ("status", "--json")):
        done = process(cron, *root, *arguments)
        assert done.returncode == 0, done
        assert b"Traceback" not in done.stderr
    bench.ticks()
    finished(bench)
    assert "naïve 数据" in (bench.root / "data/round2/round2_history.jsonl").read_text("utf-8")


@pytest.mark.fault(
    37,
    "cron: the keys are missing",
    injected="empty environment",
    seen="status 2, the variable, and where to put it",
)
def test_37_cron_without_keys(bench: Bench) -> None:
    """One line that names the variable and where to put it."""
    done = process({}, "--root", str(bench.root), "collect", "--advance")
    assert done.returncode == 2
    assert b"GEMINI_API_KEY is not set" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_installation_that_may_not_be_written_to(tmp_path: Path) -> None:
    """The program writes only under its root, and needs no compiled files next to its modules."""
    install, source = tmp_path / "install", tmp_path / "seeds.jsonl"
    source.write_text("".join(json.dumps(seed) + "\n" for seed in seeds(CONVERSATIONS)), "utf-8")
    shutil.copytree(REPOSITORY / "batchgen", install / "batchgen", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "cli.py", install)
    folders = [install, *(path for path in install.rglob("*") if path.is_dir())]
    before = sorted(install.rglob("*.*"))
    for path in folders:
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        done = process({}, "--root", str(tmp_path / "run"), "prepare", "--input", str(source), "--all", install=install)
    finally:
        for path in folders:
            path.chmod(stat.S_IRWXU)
    assert done.returncode == 0, done
    assert [path for path in sorted(install.rglob("*.*")) if path.suffix != ".pyc"] == before
    assert (tmp_path / "run" / "data" / "batchgen.sqlite").exists()


@pytest.mark.fault(
    33,
    "a compiled file of the program is cut off",
    injected="half a .pyc file",
    seen="status 2 and what to delete",
)
def test_a_compiled_file_that_a_full_disk_cut_off(bench: Bench, tmp_path: Path) -> None:
    """The message is neither a traceback nor "interrupted"."""
    install = tmp_path / "install"
    shutil.copytree(REPOSITORY / "batchgen", install / "batchgen", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "cli.py", install)
    arguments = ("--root", str(bench.root), "status")
    assert process({}, *arguments, install=install).returncode == 0
    (compiled,) = (install / "batchgen").rglob("status.*.pyc")
    compiled.write_bytes(compiled.read_bytes()[:100])
    done = process({}, *arguments, install=install)
    assert done.returncode == 2
    assert b"__pycache__" in done.stderr


# ---------------------------------------------------------------- where the root is


@pytest.mark.parametrize("how", ["relative", "absolute", "variable", "here"])
def test_the_root_is_found(
    how: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batchgen.cli.main import main

    monkeypatch.chdir(bench.root if how == "here" else bench.root.parent)
    if how == "variable":
        monkeypatch.setenv("BATCHGEN_ROOT", str(bench.root))
    root = {"relative": ["--root", bench.root.name], "absolute": ["--root", str(bench.root)]}.get(how, [])
    capsys.readouterr()
    main([*root, "submit", "--stage", "question"])
    assert capsys.readouterr().out == "1 batch submitted.\n"
    assert (bench.root / "requests" / "round2" / "question").is_dir()


def test_a_root_that_is_a_file(bench: Bench) -> None:
    bench.root = bench.root / "seeds.jsonl"
    refused = bench.run("collect")
    assert (refused.code, refused.err.count("\n")) == (2, 2)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("key", [None, "", "   ", "two words", "line\nbreak", '"quoted"', "kéy"])
@pytest.mark.parametrize("variable", ["GEMINI_API_KEY", "TOGETHER_API_KEY"])
def test_a_key_that_cannot_be_one(
    variable: str, key: str | None, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected before any call to its provider, and not shown; the other provider continues."""
    if key is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, key)
    refused = bench.run("submit", "--stage", "question")
    assert refused.code == 2
    assert refused.err.count("batchgen: ") == 1
    assert f"batchgen: {variable} " in refused.err
    assert key is None or not key.strip() or key not in refused.err
    provider = variable.partition("_")[0].lower()
    assert provider not in {request.provider for request in bench.service.world.requests}
    assert len([*bench.root.glob("requests/**/*.jsonl")]) == len(bench.service.world.jobs) == (provider == "together")


@pytest.mark.parametrize("padding", ["{}\n", " {}\r\n"])
def test_a_key_with_a_line_end_around_it(padding: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from $(cat key.txt) with Windows line ends."""
    monkeypatch.setenv("GEMINI_API_KEY", padding.format(GEMINI_KEY))
    monkeypatch.setenv("TOGETHER_API_KEY", padding.format(TOGETHER_KEY))
    assert bench.run("submit", "--stage", "question").code == 0
    assert {seen.owner for seen in bench.service.world.seen("gemini", "create")} != {""}


# ---------------------------------------------------------------- addresses and proxies


def everywhere(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", url)
    monkeypatch.setenv("TOGETHER_BASE_URL", url)


@pytest.mark.parametrize(
    "url", ["localhost:8801", "ftp://127.0.0.1", "http://", "http://[::1", "/v1", "http://a b/", "http://h:x"]
)
def test_an_address_that_is_none(url: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere(monkeypatch, url)
    refused = bench.run("submit", "--stage", "question")
    assert refused.code == 2, refused
    assert "Traceback" not in refused.err


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.fault(
    43,
    "server or proxy do not listen",
    injected="closed port",
    seen="status 75; nothing is unclear, for nothing was sent",
)
@pytest.mark.parametrize("what", ["server", "proxy"])
def test_nobody_is_there(what: str, bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server or a proxy that does not listen: a temporary error, no unclear create, and later the run continues."""
    before = dict(bench.environment)
    nowhere = f"http://127.0.0.1:{closed_port()}"
    for tick in range(3):  # the fault at the probe, at the upload, and while a batch is in flight
        with monkeypatch.context() as patch:
            if what == "server":
                everywhere(patch, nowhere)
            else:
                patch.delenv("NO_PROXY")
                patch.setenv("HTTP_PROXY", nowhere)
            away = bench.run("collect", "--advance")
        assert away.code == 75, (tick, away)
        assert "refused" in away.err
        assert [batch["state"] for batch in bench.status()["batches"] if batch["state"] == "creating"] == []
        assert bench.run("collect", "--advance").code == 0
    assert bench.environment == before
    end(bench, expected)


@pytest.mark.parametrize("proxy", ["nonsense://x", "localhost:nonsense"])
def test_a_proxy_that_is_none(proxy: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY")
    refused = bench.run("submit", "--stage", "question")
    assert refused.code == 2, refused
    assert "proxy" in refused.err


# ---------------------------------------------------------------- certificates


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a proxy's own authority")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths


@contextmanager
def tls_server(paths: tuple[Path, Path]) -> Iterator[str]:
    """A server with this certificate that answers 503 to every client that trusts it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(65536)
                secure.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.fault(
    37,
    "a certificate that this machine does not trust",
    injected="a server with its own authority",
    seen="status 2 naming SSL_CERT_FILE; with it both SDKs get through",
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_certificate_that_is_not_trusted(
    provider: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of configuration: exit 2 and the variable to set; once it is set, both SDKs connect."""
    assert bench.run("submit", "--stage", "question").code == 0
    if provider != "gemini":
        assert bench.run("collect").code == 0
    paths = certificate(tmp_path)

    def attempt(trusted: Path | str) -> Result:
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        return bench.run("collect") if provider == "gemini" else bench.run("submit", "--stage", "answer")

    with tls_server(paths) as url:
        monkeypatch.setenv(URL_VARIABLE[provider], url)
        for trusted in ("", os.environ["SSL_CERT_FILE"]):
            refused = attempt(trusted)
            assert refused.code == 2, refused
            assert "SSL_CERT_FILE" in refused.err
        assert attempt(paths[0]).code == 75
        gone = attempt(tmp_path / "no-such.pem")
        assert gone.code == 2
        assert "no-such.pem" in gone.err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_end_no_command(closed: str, bench: Bench) -> None:
    """Some supervisors start processes so. A stream that was never open changes no exit status."""
    assert bench.prepare(seeds(1)).code == 0
    for command in ("status", "collect"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, str(REPOSITORY / "cli.py"), command],
            env={**bench.environment, "BATCHGEN_ROOT": str(bench.root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (command, done)
