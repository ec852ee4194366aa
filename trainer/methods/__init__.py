"""The methods by name, and how to get one. Importing this package never imports torch; `load_method` does.

A new method is one module beside these and one line here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from stores.errors import UsageError, suggest

if TYPE_CHECKING:
    from trainer.methods.contract import Method

METHODS: dict[str, str] = {
    "fixmatch": "trainer.methods.fixmatch",
    "realmix": "trainer.methods.realmix",
    "remixmatch": "trainer.methods.remixmatch",
    "supervised": "trainer.methods.supervised",
    "uda": "trainer.methods.uda",
}


def load_method(name: str) -> Method:
    """The method's module.

    Raises:
        UsageError: no method has this name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'", hint=suggest(name, METHODS))
    return cast("Method", importlib.import_module(METHODS[name]))
