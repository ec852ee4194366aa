"""The methods by name, and how to get one. Importing this package never imports torch; `load_method` does.

A new method is one module beside these and one line here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from stores.errors import UsageError, suggest

if TYPE_CHECKING:
    from trainer.contract import Method

METHODS: dict[str, str] = {
    "supervised": "trainer.methods.supervised",
    "mixup": "trainer.methods.mixup",
    "pi_model": "trainer.methods.pi_model",
    "pseudo_label": "trainer.methods.pseudo_label",
    "vat": "trainer.methods.vat",
    "mean_teacher": "trainer.methods.mean_teacher",
    "ict": "trainer.methods.ict",
    "mixmatch": "trainer.methods.mixmatch",
    "realmix": "trainer.methods.realmix",
    "remixmatch": "trainer.methods.remixmatch",
    "uda": "trainer.methods.uda",
    "fixmatch": "trainer.methods.fixmatch",
}


def list_methods() -> list[str]:
    """Names of all methods."""
    return list(METHODS)


def register_method(source: object) -> Method:
    """Make a method of another package known for the rest of this process: its module."""
    method = cast("Method", source)
    METHODS[method.NAME] = method.__name__  # type: ignore[attr-defined]
    return method


def load_method(name: str) -> Method:
    """The method's module.

    Raises:
        UsageError: no method has this name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'", hint=suggest(name, METHODS))
    return cast("Method", importlib.import_module(METHODS[name]))
