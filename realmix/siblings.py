"""The packages beside this one are imported from beside this one: a working directory may hold a `trainer.py` too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("stores", "networks", "pipeline", "trainer")
HOME = Path(__file__).resolve().parents[1]


def claim() -> None:
    """Import the packages, which takes no time: what is heavy is in their modules.

    Raises:
        ImportError: something else has been imported under one of their names.
    """
    for name in PACKAGES:
        if name not in sys.modules:
            _load(name, HOME / name)
        elif (found := getattr(sys.modules[name], "__file__", None)) and Path(found).resolve().parent != HOME / name:
            raise ImportError(
                f"'{found}' has been imported as '{name}', and realmix has a package of this name: rename yours",
                name=name,
            )


def _load(name: str, folder: Path) -> None:
    file = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
