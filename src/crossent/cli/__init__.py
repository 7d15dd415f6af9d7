"""The command line: `crossent COMMAND`. One file per command, read when the command is named."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from crossent.cli.group import commands
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("crossent: the commands need more packages: pip install 'crossent[fit]'")
    commands(prog_name="crossent")
