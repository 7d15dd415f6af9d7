"""`crossent lab`: write the page that shows why cross-entropy learns."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="lab.html",
    show_default=True,
    help="The file to write.",
)
@click.option("--open", "show", is_flag=True, help="Open it in your browser, too.")
def lab(out: Path, show: bool) -> None:
    """Write a page that shows why cross-entropy learns where the quadratic cost stalls.

    One HTML file that needs no network: six figures to look at and to touch.
    """
    from crossent import files
    from crossent.lab.layer import trained_layer
    from crossent.lab.page import assemble

    with files.replacing(out) as beside:
        beside.write_text(assemble(trained_layer()), encoding="utf-8")
    click.echo(f"Wrote {out}: {out.stat().st_size / 1000:.0f} kB. Open it in any browser.")
    if show and not webbrowser.open(out.resolve().as_uri()):
        click.echo("There is no browser here to open it with.", err=True)
