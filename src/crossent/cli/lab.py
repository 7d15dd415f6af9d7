"""`crossent lab`: write the page that shows why cross-entropy learns."""

import os
import webbrowser
from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="lab.html",
    show_default=True,
    help="The file to write.",
)
@click.option("--open", "show", is_flag=True, help="Open it in your browser, too.")
def lab(out: Path, show: bool) -> None:
    """Write a page that shows why cross-entropy learns where the quadratic cost stalls.

    One HTML file that needs no network: six figures to look at and to touch.
    """
    if not out.parent.is_dir():
        raise click.UsageError(f"--out is {out}, but there is no directory {out.parent}.")
    from crossent.lab.layer import trained_layer
    from crossent.lab.page import assemble

    page = assemble(trained_layer())
    try:
        _replace(out, page)
    except OSError as error:
        raise click.UsageError(f"{out} cannot be written: {error.strerror}.") from error
    click.echo(f"Wrote {out} ({len(page.encode()) / 1000:.0f} kB). Open it in any browser.")
    if show and not webbrowser.open(out.resolve().as_uri()):
        click.echo("There is no browser here to open it with.", err=True)


def _replace(path: Path, text: str) -> None:
    """Write beside and rename, so that no reader and no failure meets half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
