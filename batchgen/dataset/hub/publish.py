"""Upload an export with its card to the Hugging Face hub, as one commit.

The same run gives the same files, so that a second upload sends only what the hub does not have. Files go over plain
HTTP (LFS): unlike the Xet library of the hub, it obeys SSL_CERT_FILE and the proxy variables as every other call does.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batchgen.core.errors import BatchgenError, KeyRefused, SetupError, Temporary
from batchgen.dataset.card import CARD, CARD_MARKER, license_ids
from batchgen.dataset.export import FILE_SUFFIXES, TEST, TRAIN, Exported, ExportOptions, option_words, write_export
from batchgen.dataset.hub.seed_terms import seed_terms
from batchgen.dataset.seed_sources import DATASET_ID
from batchgen.ledger.run import Run
from batchgen.runtime.files import system_error
from batchgen.runtime.logging_setup import add_secret, log, redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TRANSIENT_STATUSES = (408, 425, 429)  # and all from 500
NO_TOKEN = "Set HF_TOKEN to a token that may write, or run: hf auth login"  # noqa: S105 - no token
AGAIN = "Run the same command again: what has arrived is not sent again."


class Target(NamedTuple):
    """A repository of the hub, "owner/name", and whether only its owner shall see it."""

    repository: str
    private: bool = True


class Upload(NamedTuple):
    """What is uploaded: the files by their names in the repository, and what they hold."""

    files: dict[str, Path]
    exported: Exported

    @property
    def sizes(self) -> dict[str, int]:
        return {name: path.stat().st_size for name, path in self.files.items()}


class Published(NamedTuple):
    """The repository after the upload. `changed` is False if it held the same files already."""

    url: str
    private: bool
    commit: str
    changed: bool


def check_target(run: Run, target: Target, options: ExportOptions) -> None:
    """Check, before anything is written, what an upload needs.

    Raises SetupError for a name that is no repository and an unknown licence, KeyRefused without a token.
    """
    if not DATASET_ID.fullmatch(target.repository):
        raise SetupError(
            f"{target.repository!r} is no repository of the hub.",
            do="Name it as OWNER/NAME: your user name or organization, and the name of the dataset.",
        )
    if not license_ids(run, seed_terms(run, options.license)):
        command = f"batchgen publish {target.repository} --format {options.form}{option_words(options)}"
        command += f"{'' if target.private else ' --public'} --license ID"
        raise SetupError(
            "The licence of the seeds is not known, and a published dataset must state one.",
            do=f"Look it up where the seeds come from, then: {command}",
        )
    with _plain_errors(target.repository):
        _token()


def write_upload(run: Run, target: Target, options: ExportOptions) -> Upload:
    """Write the files to upload into the folder `options.output`. Raises SetupError as `export` does."""
    command = f"batchgen publish {target.repository} --format {options.form}{option_words(options)}"
    done = write_export(run, options, command)
    paths = [*(part.path for part in done.parts.values()), options.output / CARD]
    return Upload({path.name: path for path in paths}, done)


def upload(target: Target, files: dict[str, Path]) -> Published:
    """Create the repository if it is missing, and bring it the files in one commit.

    Raises KeyRefused for a refused token, SetupError for what the hub refuses and a repository that cannot be used,
    Temporary for an error that another try may not meet.
    """
    _calm_library()
    with _plain_errors(target.repository):
        api = _api()
        api.create_repo(target.repository, repo_type="dataset", private=target.private, exist_ok=True)
        before = api.dataset_info(target.repository, timeout=30.0)
        private = bool(before.private)
        _check_repository(api, target, private, {each.rfilename for each in before.siblings or []}, files)
        commit = _commit(api, target.repository, files)
    url = f"{api.endpoint}/datasets/{target.repository}"
    return Published(url, private, commit, commit != before.sha)


def _commit(api: HfApi, repository: str, files: dict[str, Path]) -> str:
    """Upload what the hub does not have. Return the id of the commit, or of the last one if nothing is new."""
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    try:
        with warnings.catch_warnings(action="ignore"):  # remarks of the hub about the card
            done = api.create_commit(
                repository, operations, commit_message="Upload a dataset with its card", repo_type="dataset"
            )
    except JSONDecodeError as error:  # the hub has answered before: this is an error page
        raise Temporary(f"The hub has a problem for now: {_words(error)}", do=AGAIN) from None
    return done.oid


def _check_repository(api: HfApi, target: Target, private: bool, found: set[str], files: dict[str, Path]) -> None:  # noqa: FBT001
    """Raise SetupError if the repository is more public than wanted, or holds what an upload would overwrite."""
    elsewhere = "Choose another repository."
    if target.private and not private:
        raise SetupError(
            f"{target.repository} exists and is public; nothing was uploaded.",
            do="Add --public if everybody may read this dataset, or make the repository private, or choose another.",
        )
    if private and not target.private:
        log.warning("%s exists and stays private: change it on the page of its settings.", target.repository)
    others = {f"{split}{suffix}" for split in (TRAIN, TEST) for suffix in FILE_SUFFIXES} - files.keys()
    if left := sorted(others & found):
        raise SetupError(f"{target.repository} holds {', '.join(left)} of another export.", do=elsewhere)
    if CARD in found:
        path = Path(api.hf_hub_download(target.repository, CARD, repo_type="dataset"))
        if CARD_MARKER not in path.read_text("utf-8", errors="replace"):
            raise SetupError(f"The {CARD} of {target.repository} was not written by an export.", do=elsewhere)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=_token())


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise KeyRefused("The Hugging Face hub needs a token for an upload, and none is set.", do=NO_TOKEN)
    add_secret(token)
    return token


def _calm_library() -> None:
    """Keep huggingface_hub from logging addresses that are signed, and from drawing bars into a file."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    constants.HF_HUB_DISABLE_XET = True
    library = logging.getLogger("huggingface_hub")
    library.handlers.clear()
    library.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()


# ---------------------------------------------------------------- errors of the hub


@contextmanager
def _plain_errors(repository: str) -> Iterator[None]:
    """Raise errors of the hub's library as errors of this program."""
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub.errors import OIDCError

    try:
        yield
    except BatchgenError:
        raise
    except (HTTPError, OSError, LookupError, TypeError, ValueError, RuntimeError, InvalidURL, OIDCError) as error:
        raise _plain_error(repository, error) from None


def _plain_error(repository: str, error: BaseException) -> BatchgenError:
    from huggingface_hub.errors import BadRequestError, HfHubHTTPError

    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _plain_error(repository, error.__cause__)  # the library's "Error while uploading FILE"
    if isinstance(error, HfHubHTTPError):
        return _refusal(repository, error.response.status_code, _words(error.server_message or error.args[0]))
    if isinstance(error, ValueError) and isinstance(error.__cause__, BadRequestError):
        return SetupError(f"The hub refused the card: {_words(error)}", do="Is --license one that the hub knows?")
    return _no_answer(error)


def _no_answer(error: BaseException) -> BatchgenError:
    """Return the error for a call that was not sent, or got no answer of the hub."""
    from httpx2 import InvalidURL, TransportError, UnsupportedProtocol
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return SetupError("HF_HUB_OFFLINE is set: nothing can be uploaded.", do="Unset it.")
    if isinstance(error, OSError) and error.filename is not None:
        return system_error(error)
    if isinstance(error, InvalidURL | UnsupportedProtocol):
        return SetupError(f"The address of the hub cannot be used: {_words(error)}", do="Correct or unset HF_ENDPOINT.")
    if isinstance(error, TransportError | OSError):
        return Temporary(f"The hub cannot be reached, or the connection broke: {_words(error)}", do=AGAIN)
    return SetupError(f"The answer is not one of the hub: {_words(error)}", do="Correct or unset HF_ENDPOINT.")


def _refusal(repository: str, status: int, why: str) -> BatchgenError:
    """Return the error for an HTTP status of the hub."""
    if status == 401:  # noqa: PLR2004 - the usual codes of HTTP
        return KeyRefused(f"The hub refused the token (401): {why}", do=NO_TOKEN)
    if status in TRANSIENT_STATUSES or status >= 500:  # noqa: PLR2004
        return Temporary(
            f"The hub has a problem for now ({status}): {why}",
            do=AGAIN,
        )
    if status == 403:  # noqa: PLR2004
        do = f"Use a token with the right to write to {repository.partition('/')[0]}."
    else:
        do = "Correct what the message names, or choose another repository."
    return SetupError(f"The hub refused {repository} ({status}): {why}", do=do)


def _words(error: object) -> str:
    """Return the text of an error in one line, without keys."""
    return redact(" ".join(str(error).split())[:300]) or type(error).__name__


# ---------------------------------------------------------------- what people read


def describe_upload(target: Target, sizes: dict[str, int]) -> str:
    """Return what will be uploaded, for people."""
    seen = "private" if target.private else "public: everybody can read it"
    lines = [f"To upload to the dataset {target.repository} ({seen}):"]
    return "\n".join([*lines, *(f"  {name}: {size:,} bytes" for name, size in sizes.items())])


def describe(target: Target, options: ExportOptions, sent: Upload, done: Published) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) about what was published."""
    rows = sum(part.rows for part in sent.exported.parts.values())
    value = {
        "repository": target.repository,
        "url": done.url,
        "private": done.private,
        "commit": done.commit,
        "changed": done.changed,
        "format": options.form,
        "files": [{"name": name, "bytes": size} for name, size in sent.sizes.items()],
        "conversations": sent.exported.conversations,
        "rows": rows,
        "left_out": dict(sent.exported.left_out),
        "finished": sent.exported.finished,
    }
    seen = "private" if done.private else "public"
    if not done.changed:
        return value, f"{done.url} ({seen}) has these files already; nothing changed."
    return value, f"{sent.exported.conversations} conversations published as {options.form}: {done.url} ({seen})"
