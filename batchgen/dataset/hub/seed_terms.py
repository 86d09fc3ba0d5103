"""Licence, languages and content of the seeds, as the card of their dataset on the Hugging Face hub says.

`prepare` keeps them as the fact `seed_terms`, beside the requests too, so that an export needs no network.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import msgspec

from batchgen.core.errors import SetupError
from batchgen.ledger.run import Run

SEED_TERMS_FACT = "seed_terms"
DEFAULT_DATASET = "aligner/aligner-20K"
NOT_FOR_ALL = "not-for-all-audiences"  # the hub's tag for sensitive content
LICENSE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}")
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")

log = logging.getLogger(__name__)


class SeedTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known about the seeds. `licenses` is empty if their licence is not known.

    `license_name` and `license_link` belong to the licence "other". `given` says that the user named the licence.
    """

    licenses: tuple[str, ...] = ()
    license_name: str = ""
    license_link: str = ""
    languages: tuple[str, ...] = ()
    not_for_all: bool = False
    given: bool = False


def fetch_seed_terms(dataset: str) -> str:
    """Return the fact to keep about a dataset of the hub; "" if nothing has to be kept, or its card cannot be read."""
    if dataset == DEFAULT_DATASET:
        return ""  # `card` knows it
    from httpx2 import HTTPError
    from huggingface_hub import DatasetCard, HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError
    from yaml import YAMLError

    try:
        path = Path(HfApi().hf_hub_download(dataset, "README.md", repo_type="dataset"))
        content = DatasetCard(path.read_text("utf-8"), ignore_metadata_errors=True)
        stated: dict[str, Any] = content.data.to_dict()  # type: ignore[no-untyped-call]
    except RemoteEntryNotFoundError:
        return ""
    except (HTTPError, OSError, LookupError, TypeError, ValueError, RuntimeError, YAMLError) as error:
        log.warning("The card of %s cannot be read (%s): its licence is not known.", dataset, type(error).__name__)
        return ""
    return msgspec.json.encode(_terms(stated)).decode()


def _terms(stated: dict[str, Any]) -> SeedTerms:
    """Return what the metadata of a card says; values of an unexpected form are passed over."""
    licenses = tuple(one for one in _strings(stated.get("license")) if LICENSE_ID.fullmatch(one))
    name, link = (
        " ".join((_strings(stated.get(key)) or [""])[0].split())[:200] for key in ("license_name", "license_link")
    )
    return SeedTerms(
        licenses,
        name if "other" in licenses else "",
        link if "other" in licenses and link.startswith("https://") else "",
        tuple(one for one in _strings(stated.get("language")) if LANGUAGE_CODE.fullmatch(one)),
        NOT_FOR_ALL in _strings(stated.get("tags")),
    )


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]


def seed_terms(run: Run, license_id: str) -> SeedTerms:
    """Return what is known about the seeds of a run; `license_id` is the licence that the user named, "" if none.

    Raises SetupError for a licence that is no identifier.
    """
    terms = msgspec.json.decode(run.store.fact(SEED_TERMS_FACT) or "{}", type=SeedTerms)
    if not license_id:
        return terms
    if not LICENSE_ID.fullmatch(license_id):
        raise SetupError(
            f"--license {license_id!r} is no identifier of a licence.",
            do="Use one that the hub knows, such as cc-by-4.0, apache-2.0 or other.",
        )
    return msgspec.structs.replace(terms, licenses=(license_id,), license_name="", license_link="", given=True)
