"""The services with OpenAI's batch API: one row of data for each. Pure.

Facts come from the services' documents, read in November 2026; for DeepInfra also from one published capture of the
live API. This program has not called any of them yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from batchgen.providers import chat_codec, openai_codec
from batchgen.providers.base import Provider

_DOCUMENTS = "documents"
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Service:
    """One service. Its key is in NAME_API_KEY, its address in NAME_BASE_URL.

    `base_url` is the address that /files, /batches and /chat/completions are appended to. `window` is the longest time
    that the service may take. `limit_field` is its name for the limit of output tokens.
    """

    name: str
    base_url: str
    evidence: str = _DOCUMENTS
    window: str = "24h"
    limit_field: str = "max_tokens"
    max_lines: int = 50_000
    max_file_bytes: int = 200 * _MEGABYTE
    max_line_bytes: int = 10 * _MEGABYTE

    @property
    def provider(self) -> Provider:
        """Return the row of the provider table."""
        return Provider(
            name=self.name,
            key_variable=f"{self.name.upper()}_API_KEY",
            url_variable=f"{self.name.upper()}_BASE_URL",
            sdk_variables=(),
            max_file_bytes=self.max_file_bytes,
            max_line_bytes=self.max_line_bytes,
            max_file_requests=self.max_lines,
            upload_lifetime_seconds=float("inf"),
            names_come_back=False,  # whether listings show the metadata of a batch is not documented
            sdk="httpx2",
            tokens=chat_codec.LLAMA_TOKENS,
            line=partial(openai_codec.encode_request, limit_field=self.limit_field),
            asked=openai_codec.parse_request,
            key=chat_codec.result_key,
            result_row_markers=chat_codec.RESULT_ROW_MARKERS,
            reply=chat_codec.parse_result,
            evidence=self.evidence,
        )


SERVICES: Mapping[str, Service] = MappingProxyType(
    {
        row.name: row
        for row in (
            # docs.deepinfra.com/batch/introduction; a capture of the live API, 2026-09-21
            Service("deepinfra", "https://api.deepinfra.com/v1/openai", "documents and a published record of its API"),
            # platform.openai.com/docs/guides/batch; `max_tokens` is refused by its newer models
            Service("openai", "https://api.openai.com/v1", limit_field="max_completion_tokens"),
            Service("groq", "https://api.groq.com/openai/v1"),  # console.groq.com/docs/batch
            Service("parasail", "https://api.parasail.io/v1"),  # docs.parasail.io/parasail-docs/batch
            # docs.tokenfactory.nebius.com: 5 million lines, 10 GB. A file is held in memory once, so less is used.
            Service("nebius", "https://api.tokenfactory.nebius.com/v1"),
            Service("inference", "https://batch.inference.net/v1"),  # docs.inference.net
            Service("doubleword", "https://api.doubleword.ai/v1"),  # docs.doubleword.ai; windows 1h and 24h
        )
    }
)
