"""Transfer learning: a new run that starts from a trained network, all but its heads.

What is taken over are a finished run's averaged weights and its BatchNorm statistics, that is, what was evaluated.
Heads, optimizer and step counter start anew, and the new run's average starts from the loaded weights: any method can
follow any other, on other classes. A run that is resumed never reads the file again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from networks.network import BACKBONE
from stores.errors import StoreError, UsageError
from trainer.runs import weights
from trainer.runs.run_dir import open_run


@dataclass(frozen=True)
class Backbone:
    """A trained network without its heads.

    Attributes:
        path: of the file, absolute.
        sha256: of its bytes.
        tensors: float32, by their names in the network.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]

    def describe(self) -> dict[str, str]:
        """What a run's record says about where it started."""
        return {"path": str(self.path), "sha256": self.sha256}


def read(source: str, model: str) -> Backbone:
    """Read a backbone.

    Args:
        source: a run's folder, or a .safetensors file of averaged weights.
        model: name of the network that is to take it, "wrn-28-2".

    Raises:
        StoreError: there is no such run or file, or the run has not finished.
        IntegrityError: it is no safetensors file, or a damaged one.
        UsageError: it holds another network.
    """
    path = Path(source).resolve()
    if path.is_dir():
        path = _weights_of(path)
    if not path.is_file():
        raise StoreError(f"'{source}' does not exist", hint="--init takes a run's folder or its model.safetensors")
    content = weights.read(path)
    about = content.metadata
    if about.get("model", model) != model:
        raise UsageError(
            f"'{path}' holds a {about['model']}, the run trains a {model}", hint=f"--model {about['model']}"
        )
    if about.get("input", weights.INPUT) != weights.INPUT:
        raise StoreError(f"the network in '{path}' takes other pixels", f"{about['input']}, not {weights.INPUT}")
    tensors = {name: tensor for name, tensor in content.tensors.items() if name.split(".")[0] in BACKBONE}
    return Backbone(path, content.sha256, tensors)


def load_into(network: nn.Module, backbone: Backbone) -> None:
    """Put a backbone into a network whose heads stay as they are.

    Raises:
        UsageError: its tensors have other names or shapes.
    """
    own = {name: t.shape for name, t in network.state_dict().items() if name.split(".")[0] in BACKBONE}
    theirs = {name: tensor.shape for name, tensor in backbone.tensors.items()}
    differing = [name for name in sorted(own.keys() | theirs.keys()) if own.get(name) != theirs.get(name)]
    if differing:
        name = differing[0]
        shapes = [str(tuple(shapes[name])) if name in shapes else "nothing" for shapes in (theirs, own)]
        raise UsageError(
            f"'{backbone.path}' holds another network than the run's",
            f"'{name}' is {shapes[0]} there and {shapes[1]} here",
        )
    network.load_state_dict(backbone.tensors, strict=False)


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
