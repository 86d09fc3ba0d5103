"""Click types for paths: expand `~`, and refuse paths that cannot be resolved."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class UserPath(click.ParamType[Path]):
    """A path, with `~` as the home folder: shells do not expand `--root=~/run`, nor does cron in a variable.

    Fails for an empty text (an unset variable in a script), an unknown user, and a loop of symbolic links.
    """

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(_resolvable(self, str(value) if value else "", param, ctx))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        """Let the shell complete the path."""
        return [CompletionItem(incomplete, type="file")]


class UserInput(click.ParamType[str]):
    """A path like UserPath, or the id of a dataset, which is not changed."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return _resolvable(self, value, param, ctx)

    shell_complete = UserPath.shell_complete


def _resolvable(
    kind: click.ParamType[Any], given: str, param: click.Parameter | None, ctx: click.Context | None
) -> str:
    """Return the path with `~` expanded."""
    if not given:
        kind.fail("the path is empty.", param, ctx)
    path = given if os.path.lexists(given) else os.path.expanduser(given)  # noqa: PTH111 - Path's raises RuntimeError
    if path.startswith("~") and not os.path.lexists(path):
        kind.fail(f"{given}: no such user, or no home folder; for a file of that name write ./{given}", param, ctx)
    try:
        os.stat(path)  # noqa: PTH116 - a dataset id is no Path
    except OSError as error:
        if error.errno == errno.ELOOP:
            kind.fail(f"{path}: {error.strerror}.", param, ctx)
    return path
