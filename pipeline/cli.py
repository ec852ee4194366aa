"""`realmix-data`: the command line. Each command is a function of its own module in `pipeline.commands`.

Those modules import what does the work when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipeline.commands.build import build
from pipeline.commands.embed import embed
from pipeline.commands.export import export
from pipeline.commands.info import info
from pipeline.commands.options import grouped
from pipeline.commands.plan import plan
from pipeline.commands.preview import preview
from pipeline.commands.repair import repair
from pipeline.commands.split import split
from pipeline.commands.verify import verify
from stores import __version__
from stores.errors import run
from stores.system.command_line import CONTEXT, Command, Group, shown
from stores.system.text import say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    cls=Group,
    context_settings=CONTEXT,
    help="Build stores of augmented copies once; train from them with `realmix-train` as often as you like.",
    epilog="Example: `realmix-data build cifar10 --copies 50`, then `realmix-train --store stores/cifar10_250`",
)
for command in (build, plan, split, embed, info, verify, repair, export, preview):
    app.command(cls=Command)(grouped(command))


def _version(asked: bool) -> None:
    if asked:
        say(f"realmix {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of `realmix-data`."""
    run(app)


def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["REALMIX_DEBUG"] = "1"


app.callback()(shown(options))
