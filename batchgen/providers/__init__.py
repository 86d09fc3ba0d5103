"""The provider table. A third provider is its codec, its calls, one more row here, and its section in `settings`."""

import os
from collections.abc import Mapping
from types import MappingProxyType

from batchgen.core.errors import SetupError
from batchgen.providers import gemini_codec, together_codec
from batchgen.providers.base import Access, Provider, Remote

PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {row.name: row for row in (gemini_codec.PROVIDER, together_codec.PROVIDER)}
)


def provider(name: str) -> Provider:
    """The row called `name`. Raises SetupError."""
    if name not in PROVIDERS:
        raise SetupError(f"No provider is called {name!r}.", do=f"Use one of: {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]


def connect(row: Provider, access: Access) -> Remote:
    """The calls of `row`. Raises SetupError.

    The variables that only its SDK reads leave this process first. They would change keys, addresses, headers and the
    log, and the SDKs have no other switch for most of them.
    """
    for name in filter(row.is_foreign, list(os.environ)):
        del os.environ[name]
    return row.connect(access)
