"""How both command lines show their options: words for values instead of Python's types, panels, British spelling."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

WORDS = {int: "N", float: "X", str: "TEXT", Path: "PATH", bool: ""}
CONTEXT = {"token_normalize_func": lambda word: word.replace("labelled", "labeled")}  # --unlabelled is --unlabeled


class Command(TyperCommand):
    """A command whose help names no type of Python."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class Group(TyperGroup):
    """A command line whose help names no type of Python."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


def _plain(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.metavar is None:  # of typer's own options
            parameter.metavar = ""
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # typer shows it beside the name
    return parameters


def shown(command: Callable[..., Any], panels: Mapping[str, str] | None = None) -> Callable[..., Any]:
    """Give the options of a command words for their values, and panels in its help; returns the command.

    Args:
        command: a function whose parameters are annotated as typer has them.
        panels: title of the panel of each option that is not among the common ones, by parameter.
    """
    hints = get_type_hints(command, include_extras=True)
    for name, hint in hints.items():
        describe(name, hint, (panels or {}).get(name))
    command.__annotations__ = hints  # typer would evaluate the text of them again, without these words
    return command


def describe(name: str, hint: Any, panel: str | None = None) -> None:
    """Give one parameter a word for its values, unless it has one, and a panel."""
    if get_origin(hint) is not Annotated:
        return
    kind, *notes = get_args(hint)
    for note in notes:
        if isinstance(note, OptionInfo | ArgumentInfo):
            note.rich_help_panel = note.rich_help_panel or panel
            if note.metavar is None:
                note.metavar = name.upper() if isinstance(note, ArgumentInfo) else _word(kind)


def _word(kind: Any) -> str | None:
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        kind = next(one for one in get_args(kind) if one is not type(None))
    return WORDS.get(kind)


def starting(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Completion by these words."""
    known = list(words)

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return complete


def stores_here(incomplete: str) -> list[str]:
    """Completion by the stores of the folder that is being typed, or of ./stores."""
    return _here(incomplete, "stores", "zarr.json")


def runs_here(incomplete: str) -> list[str]:
    """Completion by the runs of the folder that is being typed, or of ./runs."""
    return _here(incomplete, "runs", "config.json")


def _here(incomplete: str, usual: str, file: str) -> list[str]:
    typed, slash, _ = incomplete.rpartition("/")
    found = (str(path.parent) for path in sorted(Path((typed or "/") if slash else usual).glob(f"*/{file}")))
    return [path for path in found if path.startswith(incomplete)]
