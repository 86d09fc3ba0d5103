"""What differs between the providers in tests: keys, variables, endpoints of the local service, words of states."""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.emulator.faults import Status
from batchgen.engine.submission.expected_length import ECHO_TOKENS
from batchgen.providers import PROVIDERS as TABLE
from tests.support.bench import GEMINI_KEY, SERVICE_KEY, TOGETHER_KEY

# The first step of round 2 at each provider, as a stage and as a position.
STAGE = {"gemini": "question", "together": "answer", "deepinfra": "answer"}
POSITION = {"gemini": 3, "together": 4, "deepinfra": 4}
PROVIDERS = tuple(STAGE)
ROWS = [TABLE[name] for name in PROVIDERS]  # one for each form of a request line
ANSWERERS = PROVIDERS[1:]
KEYS = {"gemini": GEMINI_KEY, "together": TOGETHER_KEY, "deepinfra": SERVICE_KEY}
KEY_VARIABLE = {name: TABLE[name].key_variable for name in PROVIDERS}
URL_VARIABLE = {name: TABLE[name].url_variable for name in PROVIDERS}
MAX_OUTPUT_TOKENS = {"gemini": 128 + ECHO_TOKENS, "together": 512, "deepinfra": 512}
# The calls of an upload: the one that begins it, the one that carries the bytes.
UPLOAD_START = {"gemini": "upload_start", "together": "upload_start", "deepinfra": "upload_whole"}
UPLOAD_DATA = {"gemini": "upload_data", "together": "upload_data", "deepinfra": "upload_whole"}
# A part of the address of an output file; DeepInfra always names an error file as well.
OUTPUT_FILE = {"gemini": "", "together": "", "deepinfra": "_output"}
# A configuration with another model.
OTHER_MODEL = {
    "gemini": '[gemini]\nmodels = ["other-model"]\n',
    "together": '[together]\nmodels = ["other-model"]\n',
    "deepinfra": '[answer]\nmodels = ["deepinfra:other-model"]\n',
}
MODEL_GONE = {
    "gemini": Status(404, "models/gemini-2.5-flash-lite is not found for API version v1beta."),
    "together": Status(400, "Unable to access non-serverless model Meta-Llama.", status="model_not_available"),
    "deepinfra": Status(404, "The model 'meta-llama/Meta-Llama' does not exist."),
}


def providers_in(values: Iterable[object]) -> set[str]:
    """The providers that the parameters of a test name: a name itself, or the provider of a fault."""
    named = (value if isinstance(value, str) else getattr(value, "provider", None) for value in values)
    return {name for name in named if name in PROVIDERS}
