"""Read the environment: the providers' keys and addresses, also from a `.env` file. All keys are masked in output."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from batchgen.core.errors import KeyRefused, SetupError
from batchgen.runtime.logging_setup import add_secret, log
from batchgen.runtime.settings import PROVIDERS

KEY_VARIABLES = tuple(f"{name.upper()}_API_KEY" for name in PROVIDERS)
# Those of the providers, of the Hugging Face hub, and of `serve`.
SECRET_VARIABLES = (
    *KEY_VARIABLES,
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "BATCHGEN_BACKEND_KEY", "BATCHGEN_SERVE_TOKEN"),
)


def mask_keys(variables: Mapping[str, str]) -> None:
    """Mask the keys of all providers, also of unused ones, of the Hugging Face hub and of `serve` in all output."""
    for name in SECRET_VARIABLES:
        add_secret(variables.get(name, "").strip())


def read_environment(root: Path) -> dict[str, str]:
    """Return the process environment, with the variables of a 0600 `.env` in `root`. The environment wins.

    Lines that set no variable are named in a warning. Raises SetupError if the file cannot be read, or if others may
    read it.
    """
    path = root / ".env"
    values: dict[str, str] = {}
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return dict(os.environ)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SetupError(f"{path}: {why}.", do="Make it a UTF-8 file that you can read.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise SetupError(f"{path}: others may read this file.", do=f"Run: chmod 600 {path}")
    for number, line in enumerate(text.split("\n"), start=1):
        name, sign, value = line.strip().removeprefix("export ").partition("=")
        if sign and not name.startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
        elif name and not name.startswith("#"):
            log.warning("%s:%d: no NAME=value; this line is ignored", path, number)
    mask_keys(values)
    # An empty variable (KEY= in a crontab) does not override `.env`.
    return {**values, **{name: value for name, value in os.environ.items() if value or name not in values}}


def api_key(variables: dict[str, str], name: str) -> str:
    """Return the key in variable `name`, checked for characters that no HTTP header can have. Raises KeyRefused."""
    key = variables.get(name, "").strip()
    add_secret(key)
    if not key:
        raise KeyRefused(
            f"{name} is not set.", do=f"Put {name}=... into the environment, or into ROOT/.env (mode 0600)."
        )
    if not key.isascii() or not key.isprintable() or set(key) & set(" \"'"):
        raise KeyRefused(
            f"{name} contains characters that no key has (a line break, a blank, a quote?).", do="Set it again."
        )
    return key


def is_loopback(url: str | None) -> bool:
    """Return whether `url` points at this machine."""
    return url is not None and urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
