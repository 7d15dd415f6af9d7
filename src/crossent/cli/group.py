"""The commands, found by name; and the edge where an error becomes a sentence."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

# Each a function in a file of its name.
COMMANDS = ("fit", "predict", "score", "explain", "lab", "check")


class Failure(click.ClickException):
    """What went wrong, for a user: one sentence, exit code 2."""

    exit_code = 2

    def __init__(self, error: BaseException) -> None:
        super().__init__(sentence(error))

    def show(self, file: Any = None) -> None:
        """Print the sentence."""
        click.echo(f"crossent: {self.message}", err=True)


def sentence(error: BaseException) -> str:
    """Return what an error says, for a user."""
    if isinstance(error, ModuleNotFoundError):
        extra = "torch" if error.name == "torch" else "fit"
        return f"this needs {error.name}, which is not installed: pip install 'crossent[{extra}]'"
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class Commands(click.Group):
    """A group whose commands are imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"crossent.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can mend is told in a sentence, without a traceback."""
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError) as error:
            if os.environ.get("CROSSENT_TRACEBACK") or _closed_pipe(error):
                raise
            _drop_output()
            raise Failure(error) from error


def _drop_output() -> None:
    """Let go of what cannot be printed: Python would try again at its exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _closed_pipe(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="crossent")
def commands() -> None:
    """Train, use and understand classifiers by cross-entropy.

    Set CROSSENT_TRACEBACK=1 to see where an error comes from.
    """
