"""The provider table.

To add a service that speaks OpenAI's batch protocol, add its row to `openai_services`, and its name and a field to
`runtime/settings` (PROVIDERS, Settings). Add a row to `emulator/services`, so that tests can use it, and its prices to
`core/prices.toml`. For another protocol write a codec and a client, and add them to PROVIDERS and _CLIENTS here.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from batchgen.core.errors import SetupError
from batchgen.providers import gemini_codec, together_codec
from batchgen.providers.base import ConnectionOptions, Provider, ProviderClient
from batchgen.providers.openai_services import SERVICES

PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        row.name: row
        for row in (
            gemini_codec.PROVIDER,
            together_codec.PROVIDER,
            *(service.provider for service in SERVICES.values()),
        )
    }
)


def _gemini(access: ConnectionOptions) -> ProviderClient:
    from batchgen.providers.gemini_client import GeminiClient

    return GeminiClient(access)


def _together(access: ConnectionOptions) -> ProviderClient:
    from batchgen.providers.together_client import TogetherClient

    return TogetherClient(access)


def _openai(name: str, access: ConnectionOptions) -> ProviderClient:
    from batchgen.providers.openai_client import OpenAIClient

    return OpenAIClient(SERVICES[name], access)


# A client is imported only when its provider is connected: the SDKs take up to half a second to load.
_CLIENTS: Mapping[str, Callable[[ConnectionOptions], ProviderClient]] = MappingProxyType(
    {
        gemini_codec.NAME: _gemini,
        together_codec.NAME: _together,
        **{name: partial(_openai, name) for name in SERVICES},
    }
)


def find_provider(name: str) -> Provider:
    """Return the provider called `name`. Raises SetupError."""
    if name not in PROVIDERS:
        raise SetupError(f"No provider is called {name!r}.", do=f"Use one of: {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]


def connect(row: Provider, access: ConnectionOptions) -> ProviderClient:
    """Return the client of the provider `row`. Raises SetupError.

    First removes environment variables that only the SDK reads. They would change keys, addresses, headers and the log,
    and the SDKs have no other switch for most of them.
    """
    for name in filter(row.is_foreign, list(os.environ)):
        del os.environ[name]
    return _CLIENTS[row.name](access)
