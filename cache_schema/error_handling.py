"""What a command line shows of errors: three lines of those that the user can correct."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from cache_schema.errors import TeachonceError
from cache_schema.terminal import INTERRUPTED, USER_ERROR, err

if TYPE_CHECKING:
    from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that tell of a full disk, whichever file did not fit."""


class ErrorHandlingGroup(TyperGroup):
    """Shows an error that the user can correct as three lines; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        arguments = [*ctx.args]
        try:
            return super().invoke(ctx)
        except TeachonceError as error:
            err.print(str(error), soft_wrap=True)
            raise typer.Exit(USER_ERROR) from error
        except OSError as error:
            if error.errno in FULL:
                err.print(f"the disk is full: {error}", soft_wrap=True)
                err.print("  expected: room for what the command writes")
                err.print("  to do:    free space, or write to another disk; then run the same command again")
                raise typer.Exit(USER_ERROR) from error
            if not concerns(error, arguments):
                raise
            err.print(f"{error.filename}: {error.strerror}", soft_wrap=True)
            err.print("  expected: a file or folder that can be read, or created where it is to be written")
            err.print("  to do:    correct the path, or its permissions")
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            err.print("stopped; what was committed is safe, and the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from error


def concerns(error: OSError, arguments: Iterable[str]) -> bool:
    """Return whether an error is about a path on the command line.

    That is such a path itself, what is inside it, a folder around it, or a file beside it that is named after
    it, such as a log or a partial copy.
    """
    if not isinstance(error.filename, str):
        return False
    file = Path(os.path.abspath(error.filename))
    values = {part for argument in arguments for part in (argument, argument.partition("=")[2]) if part}
    for named in (Path(os.path.abspath(value)) for value in values):
        beside = [part for part in (file, *file.parents) if part.parent == named.parent]
        if file in named.parents or any(part.name.lstrip(".").startswith(named.name) for part in beside):
            return True
    return False
