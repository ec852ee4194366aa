"""`realmix-train methods`: methods and their settings, with defaults, meanings and presets."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stores.system.text import print_table, say
from trainer.commands.options import Debug


def methods(
    name: Annotated[str | None, typer.Argument(help="A method; all of them by default.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List methods and their settings.

    Example: `realmix-train methods realmix`
    """
    from trainer.config.run import COMPONENTS, FROM_FLAGS, Experiment
    from trainer.methods import list_methods, load_method

    chosen = [load_method(name)] if name is not None else [load_method(known) for known in list_methods()]

    described: dict[str, dict[str, Any]] = {
        m.NAME: {"summary": m.SUMMARY, "settings": _settings(m.Settings), "presets": m.PRESETS} for m in chosen
    }
    common = [
        {**row, "component": component}
        for component, cls in {"": Experiment, **COMPONENTS}.items()
        for row in _settings(cls)
        if row["name"] not in FROM_FLAGS
    ]
    if as_json:
        say(json.dumps({"methods": described, "run": common}))
        return
    tables = [(f"{name}: {entry['summary']}", entry["settings"], entry["presets"]) for name, entry in described.items()]
    for title, rows, presets in [*tables, ("every method", common, {})]:
        shown = [
            (f"{row.get('component', '')}.{row['name']}".lstrip("."), str(row["default"]), row["help"]) for row in rows
        ]
        print_table(shown, ("setting", "default", "meaning"), title)
        for family, values in presets.items():
            say(f"  preset {family}: {_assignments(values)}")
        if presets:
            say()


def _settings(cls: type) -> list[dict[str, Any]]:
    """Name, default and help of each field of a settings dataclass."""
    import dataclasses

    fields = dataclasses.fields(cls)
    return [{"name": f.name, "default": f.default, "help": f.metadata.get("help", "")} for f in fields]


def _assignments(values: dict[str, Any]) -> str:
    flat = {key: value for key, value in values.items() if key != "run"} | values.get("run", {})
    return " ".join(f"{key}={value}" for key, value in flat.items())
