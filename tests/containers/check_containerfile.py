"""Run the steps of deploy/Containerfile in a clean Debian root, for machines without a builder: `make check-container`.

It needs root, the network and debootstrap. RUN becomes chroot, COPY becomes cp; each stage begins with a copy of the
same root. Then the finished root runs as its user: `--help`, a demo, and `serve`, which ends at SIGTERM with status 0.
The file that PIP_CERT names is copied into the roots, for a network whose proxy ends TLS.

    python tests/containers/check_containerfile.py FOLDER      # FOLDER/debian is made once, and kept
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.support.containerfile import Instruction, Stage, stages

SUITE = "trixie"  # of debian:13
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATE = "/check-container.pem"
PORT = 18801


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    debian = folder / "debian"
    if not debian.exists():
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, debian], check=True)
    roots: dict[str, Path] = {}
    found = stages(REPOSITORY / "deploy" / "Containerfile")
    for number, stage in enumerate(found):
        root = folder / f"stage{number}"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "--archive", debian, root], check=True)
        shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
        if certificate := os.environ.get("PIP_CERT"):
            shutil.copy(certificate, root / CERTIFICATE[1:])
        roots[stage.name] = root
        _build(stage, root, roots)
    _try(found[-1], roots[found[-1].name])


def _build(stage: Stage, root: Path, roots: Mapping[str, Path]) -> None:
    """Do what the instructions of a stage say in its root."""
    workdir, environment = "/", {"PIP_CERT": CERTIFICATE} if os.environ.get("PIP_CERT") else {}
    for step in stage.instructions:
        print(step.name, step.text[:100], flush=True)
        match step.name:
            case "RUN":
                _chroot(root, ["/bin/sh", "-c", f"cd {workdir} && {step.text}"], environment)
            case "COPY":
                _copy(step, root / workdir[1:], root, roots)
            case "WORKDIR":
                workdir = step.text
                (root / workdir[1:]).mkdir(parents=True, exist_ok=True)
            case "ENV":
                environment |= dict(word.split("=", 1) for word in step.words)
            case _:
                pass  # no step of a build, or used by _try


def _copy(step: Instruction, workdir: Path, root: Path, roots: Mapping[str, Path]) -> None:
    words, base = step.words, REPOSITORY
    if words[0].startswith("--from="):
        base = roots[words[0].partition("=")[2]]
        words = words[1:]
    *sources, target = words
    goal = root / target[1:] if target.startswith("/") else workdir / target
    for source in sources:
        found = base / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, goal, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, goal)


def _chroot(root: Path, command: list[str], environment: Mapping[str, str], user: str = "0:0") -> None:
    subprocess.run(
        ["chroot", f"--userspec={user}", root, *command],
        env={"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", **environment},
        check=True,
    )


def _try(stage: Stage, root: Path) -> None:
    """Run the program of the last stage as its user."""
    user, entry = stage.last("USER").text, stage.last("ENTRYPOINT").words
    environment = {"PATH": PATH, **dict(word.split("=", 1) for word in stage.last("ENV").words)}
    _chroot(root, [*entry, *stage.last("CMD").words], environment, user)
    demo = ["--quiet", "demo", "--backend", "scripted", "--output", "/data/demo"]
    _chroot(root, [*entry, *demo], environment, user)
    _chroot(root, [*entry, "--root", "/data/demo", "verify"], environment, user)
    serve = [*entry, "serve", "--backend", "scripted", "--data-dir", "/data/serve", "--gemini-port", str(PORT)]
    with subprocess.Popen(["chroot", f"--userspec={user}", root, *serve], env=environment) as process:
        for _ in range(100):
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5) as page:
                    assert b"batchgen_serve_rows" in page.read()
                break
            except OSError:
                continue
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    print("the image's steps, a demo, `verify` and `serve` work")


if __name__ == "__main__":
    main()
