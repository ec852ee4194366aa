"""What a source of networks gives, and the errors that all sources share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from stores.errors import RealMixError, StorageError, UsageError, install, suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A network without its classifier: images to pooled features [n, num_features].

    Attributes:
        net: the network; its input has zero mean and unit variance by `preprocessing`.
        num_features: D.
        preprocessing: mean and std of RGB in [0, 1], interpolation, crop, squash, and size, the side of the input that
            the weights were made for; all can be written as JSON.
        classifier: names of the modules that were left out; a file of weights may hold theirs.
    """

    net: nn.Module
    num_features: int
    preprocessing: dict[str, Any]
    classifier: tuple[str, ...]


def require(package: str, name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UsageError(
            f"'{name}' needs the Python package '{package}'", "it is not installed", install("backbones")
        ) from None


def unknown(name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that a source does not have."""
    source, _, own = name.partition(":")
    close = suggest(own, known)
    return UsageError(f"{source} has no network '{own}'", close if close.startswith("did you mean") else "")


def downloaded(build: Callable[[], T], name: str) -> T:
    """What `build` returns, which may download weights.

    Raises:
        StorageError: the hub cannot be reached, or refuses.
        UsageError: there are no weights of this name.
    """
    offline = "--weights FILE takes a .safetensors or .pth file, --weights none a random network"
    try:
        return build()
    except RealMixError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # hubs have a dozen kinds, all of them one of these
        first = str(error).strip().split("\n")[0]
        if isinstance(error, OSError):
            why = f"they were not downloaded before, and the hub does not give them: {first.split('. ')[0]:.200}"
            raise StorageError(f"no pretrained weights of '{name}'", why, offline) from None
        raise UsageError(f"no pretrained weights of '{name}'", f"{first:.200}", offline) from None
