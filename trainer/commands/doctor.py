"""`realmix-train doctor`: what this machine offers, and what to install."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stores.system.text import say
from trainer.commands.options import Debug, Json


def doctor(
    store: Annotated[
        str | None, typer.Option(help="Store to read from.", show_default="the first one in ./stores")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show versions, devices and extras, and read a store for two seconds.

    Example: `realmix-train doctor`
    """
    from trainer.commands.examine import examine

    found = examine(store)
    if as_json:
        say(json.dumps(found))
        return
    for line in _lines(found):
        say(line)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{name:14} {version}" for name, version in found["versions"].items()]
    lines.append("")
    for device in found["devices"]:
        cores = f"{device['cores']} cores, {device['threads']} threads, " if "cores" in device else ""
        free = f"{device['free_bytes'] / 2**30:.1f} GiB free"
        lines.append(f"{device['kind']:14} {device['name']}: {cores}{free}, trains in {device['precision']}")
    if len(found["devices"]) == 1:
        lines.append(f"{'cuda':14} none")
    lines.append("")
    for name, extra in found["extras"].items():
        state = f"without {', '.join(extra['missing'])}" if extra["missing"] else "ready"
        lines.append(f"{'[' + name + ']':14} {state}: {extra['purpose']}")
    lines.append("")
    read = found["read"]
    if read is None:
        lines.append("no store in ./stores to read from: --store names one, `realmix-data build digits` makes one")
    else:
        lines.append(f"{'read':14} {read['store']}: {read['images_per_s']:,.0f} {read['what']} a second")
    if found["install"]:
        lines += ["", "to add what is missing:", *(f"  {command}" for command in found["install"])]
    return lines
