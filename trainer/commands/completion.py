"""What a shell offers for the options of `realmix-train`, and what an option that does not exist is told.

Imports nothing heavy: a shell asks at every press of the tab key.
"""

from __future__ import annotations

from collections.abc import Iterator

from stores.errors import UsageError, suggest
from stores.system.command_line import starting
from trainer.methods import list_methods

NETWORKS = ("wrn-10-1", "wrn-10-2", "wrn-28-2", "wrn-37-2", "timm:", "torchvision:")
INSTEAD = {
    "epochs": "--steps N counts updates; an epoch is the number of unlabelled images divided by --batch",
    "batch-size": "--batch N",
    "learning-rate": "--set lr=VALUE",
    "gpu": "--device cuda",
    "output": "--runs FOLDER and --name NAME",
    "dataset": "--store stores/NAME",
}

networks = starting(NETWORKS)


def methods(incomplete: str) -> list[str]:
    """All methods, those of other packages too."""
    return starting(list_methods())(incomplete)


def recipes(incomplete: str) -> list[str]:
    """The recipes of `reproduce`."""
    from trainer.reproduce import recipe

    return starting(recipe.known())(incomplete)


def settings(incomplete: str) -> list[str]:
    """The keys of `--set` that every method has."""
    from trainer.config import FROM_FLAGS, RunConfig, types_of

    return starting(f"{name}=" for name in types_of(RunConfig) if name not in FROM_FLAGS)(incomplete)


def explain(option: str, known: list[str]) -> UsageError:
    """The error for an option that does not exist: what does the same, or is called nearly so."""
    from trainer.config import FROM_FLAGS, RunConfig, types_of

    name = option.lstrip("-")
    field = name.replace("-", "_")
    if name in INSTEAD:
        hint = INSTEAD[name]
    elif field in types_of(RunConfig) and field not in FROM_FLAGS:
        hint = f"--set {field}=VALUE"
    elif method := next(_with_setting(field), None):
        hint = f"a setting of {method}: --set {field}=VALUE"
    else:
        hint = suggest(option, known)
    return UsageError(f"there is no option '{option}'", hint=hint)


def _with_setting(field: str) -> Iterator[str]:
    from trainer.config import types_of
    from trainer.methods import load_method

    for name in ("realmix", *list_methods()):
        if field in types_of(load_method(name).Settings):
            yield name
