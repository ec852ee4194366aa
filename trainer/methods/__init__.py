"""The methods by name. Importing this package never imports torch; `load_method` does.

A new method is one module beside these and one line here. A method of another package is registered with
`register_method`, or found through an entry point of the group `realmix.methods`, whose name is the method's and whose
object is the module.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

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
    "freematch": "trainer.methods.freematch",
    "uasd": "trainer.methods.open_set.uasd",
    "openmatch": "trainer.methods.open_set.openmatch",
    "iomatch": "trainer.methods.open_set.iomatch",
}
FITTED: dict[str, str] = {  # at once, to embeddings
    "probe": "trainer.methods.fitted.probe",
    "knn": "trainer.methods.fitted.knn",
    "label_spreading": "trainer.methods.fitted.label_spreading",
}
GROUP = "realmix.methods"  # of entry points

LOADED: dict[str, Method] = {}  # and registered


def list_methods() -> list[str]:
    """Names of all methods: the built-in ones, then those of other packages."""
    own = METHODS | FITTED
    others = {*LOADED, *(point.name for point in entry_points(group=GROUP))} - own.keys()
    return [*own, *sorted(others)]


def load_method(name: str) -> Method:
    """A method by name.

    Raises:
        UsageError: no method has this name, or the package that it comes from does not work.
    """
    if name not in LOADED:
        LOADED[name] = _load(name)
    return LOADED[name]


def register_method(source: object) -> Method:
    """Make a method of another package known for the rest of this process; it replaces one registered under its name.

    Args:
        source: a module, or any object with the same attributes; see `trainer.contract.Method`.

    Raises:
        UsageError: it lacks what every method defines, or a built-in method has its name.
    """
    from trainer.contract import Method

    method = Method.of(source)
    if method.NAME in METHODS | FITTED:
        raise UsageError(f"there already is a method '{method.NAME}'", hint="give yours another NAME")
    LOADED[method.NAME] = method
    return method


def _load(name: str) -> Method:
    from trainer.contract import Method

    own = METHODS | FITTED
    if name in own:
        return Method.of(importlib.import_module(own[name]))
    for point in entry_points(group=GROUP, name=name):
        try:
            method = Method.of(point.load())
        except (ImportError, AttributeError) as error:
            raise UsageError(f"the method '{name}' cannot be loaded", f"{point.value}: {error}") from error
        if name != method.NAME:
            raise UsageError(f"the method '{name}' cannot be loaded", f"'{point.value}' calls itself '{method.NAME}'")
        return method
    raise UsageError(f"unknown method '{name}'", hint=suggest(name, list_methods()))
