"""The provider table. A third provider is its codec, its calls, one more row here, and its section in `settings`."""

from collections.abc import Mapping
from types import MappingProxyType

from batchgen.errors import SetupError
from batchgen.providers import gemini, together
from batchgen.providers.base import Provider

PROVIDERS: Mapping[str, Provider] = MappingProxyType({row.name: row for row in (gemini.PROVIDER, together.PROVIDER)})


def provider(name: str) -> Provider:
    """The row called `name`. Raises SetupError."""
    if name not in PROVIDERS:
        raise SetupError(f"No provider is called {name!r}.", do=f"Use one of: {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]
