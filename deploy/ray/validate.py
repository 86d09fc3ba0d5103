"""Check Ray Serve configurations with Ray's own schemas, without a cluster and without vLLM.

    python validate.py gpu.yaml cpu.yaml     # raises ValueError if Ray would refuse one

`ServeDeploySchema` is what `serve run` reads a file with. An application of `ray.serve.llm` has an `LLMConfig` for each
model. The public name, ray.serve.llm.LLMConfig, is a subclass without fields of its own, and importing it needs vLLM;
the class imported here has all its fields and checks. Ray ignores names that it does not know, so that a misspelt
setting would have no effect; here such a name is an error. The names in `engine_kwargs` are vLLM's and not checked.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema


def check_names(value: Mapping[str, Any], schema: type[BaseModel]) -> None:
    """Raise ValueError for a name that the schema does not have."""
    unknown = value.keys() - schema.model_fields.keys()
    if unknown:
        raise ValueError(f"{schema.__name__} has no {', '.join(sorted(unknown))}")


def check(config: Mapping[str, Any]) -> str:
    """Return what a configuration starts. Raises ValueError if Ray would refuse it or ignore a part of it."""
    ServeDeploySchema.model_validate(config)
    check_names(config, ServeDeploySchema)
    check_names(config.get("http_options", {}), HTTPOptionsSchema)
    started = []
    for application in config["applications"]:
        check_names(application, ServeApplicationSchema)
        models = application.get("args", {}).get("llm_configs", [])
        names = [LLMConfig.model_validate(model).model_id for model in models]
        for deployment in [*application.get("deployments", []), *(model["deployment_config"] for model in models)]:
            check_names(deployment, DeploymentSchema)
            check_names(deployment.get("autoscaling_config", {}), AutoscalingConfig)
        started.append(" ".join([application["import_path"], *names]))
    return ", ".join(started)


def main() -> None:
    for name in sys.argv[1:]:
        print(f"{name}: {check(yaml.safe_load(Path(name).read_text('utf-8')))}")


if __name__ == "__main__":
    main()
