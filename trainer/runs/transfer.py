"""Transfer learning: a new run that starts from a trained network, with its classifier if the classes are the same.

What is taken over are a finished run's averaged weights and its BatchNorm statistics, that is, what was evaluated.
Other heads, optimizer and step counter start anew, and the new run's average starts from the loaded weights: any method
can follow any other, on other classes. A run that is resumed never reads the file again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from networks.network import BACKBONE, CLASSIFIER
from stores.errors import StoreError, UsageError
from trainer.config import Resolved
from trainer.runs import weights
from trainer.runs.run_dir import open_run


@dataclass(frozen=True)
class Backbone:
    """A trained network without the heads that only its training needed.

    Attributes:
        path: of the file, absolute.
        sha256: of its bytes.
        tensors: float32, by their names in the network.
        head: the classifier's, if the file says that its classes are the new run's, in their order; else empty.
        model: name of the network; None if the file does not say it.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    head: dict[str, Tensor]
    model: str | None

    def describe(self) -> dict[str, str]:
        """What a run's record says about where it started."""
        return {"path": str(self.path), "sha256": self.sha256}


def read(source: str, class_names: Sequence[str] = ()) -> Backbone:
    """Read a backbone.

    Args:
        source: a run's folder, or a .safetensors file of averaged weights.
        class_names: of the run that is to take it.

    Raises:
        StoreError: there is no such run or file, or the run has not finished, or takes other pixels.
        IntegrityError: it is no safetensors file, or a damaged one.
    """
    path = Path(source).resolve()
    if path.is_dir():
        path = _weights_of(path)
    if not path.is_file():
        raise StoreError(f"'{source}' does not exist", hint="--init takes a run's folder or its model.safetensors")
    content = weights.read(path)
    about = content.metadata
    if about.get("input", weights.INPUT) != weights.INPUT:
        raise StoreError(f"the network in '{path}' takes other pixels", f"{about['input']}, not {weights.INPUT}")
    same = about.get("class_names") == json.dumps(list(class_names))
    return Backbone(
        path,
        content.sha256,
        _part(content.tensors, *BACKBONE),
        _part(content.tensors, CLASSIFIER) if same else {},
        about.get("model"),
    )


def require(backbone: Backbone, run: Resolved) -> None:
    """Raises UsageError if the run trains another network, or is to keep a classifier of other classes."""
    if backbone.model not in (None, run.model):
        raise UsageError(
            f"'{backbone.path}' holds a {backbone.model}, the run trains a {run.model}",
            hint=f"--model {backbone.model}",
        )
    if run.head == "kept" and not backbone.head:
        raise UsageError(
            f"the classifier of '{backbone.path}' cannot be kept", "its classes are not those of the store"
        )


def load_into(network: nn.Module, backbone: Backbone, head: bool = False) -> None:
    """Put a backbone into a network; with `head` its classifier too. Other heads stay as they are.

    Raises:
        UsageError: its tensors have other names or shapes.
    """
    parts = (*BACKBONE, CLASSIFIER) if head else BACKBONE
    tensors = backbone.tensors | backbone.head if head else backbone.tensors
    own = {name: tensor.shape for name, tensor in _part(network.state_dict(), *parts).items()}
    theirs = {name: tensor.shape for name, tensor in tensors.items()}
    differing = [name for name in sorted(own.keys() | theirs.keys()) if own.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        shapes = [str(tuple(shapes[name])) if name in shapes else "nothing" for shapes in (theirs, own)]
        raise UsageError(
            f"'{backbone.path}' holds another network than the run's",
            f"'{name}' is {shapes[0]} there and {shapes[1]} here",
        )
    network.load_state_dict(tensors, strict=False)


def _part(tensors: Mapping[str, Tensor], *modules: str) -> dict[str, Tensor]:
    """The tensors of these modules of a network."""
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in modules}


def _weights_of(folder: Path) -> Path:
    """The file of averaged weights in a run's folder."""
    if (folder / weights.FILE).is_file():
        if (folder / "config.json").exists():
            open_run(folder).require_own(weights.FILE)
        return folder / weights.FILE
    if (folder / "config.json").is_file():
        raise StoreError(
            f"the run '{folder}' has not finished",
            f"it has no '{weights.FILE}' yet",
            f"`realmix-train --resume {folder}` finishes it",
        )
    raise StoreError(
        f"'{folder}' is no run",
        f"there is no '{weights.FILE}' in it",
        "--init takes a run's folder or its model.safetensors",
    )
