"""Checkpoints: one file that holds all that a step changes, replaced atomically, loaded without running code.

There is no generator state: order and draws are functions of (seed, step). A file that is not whole is an error;
nothing is repaired or skipped, and a state with a non-finite number never replaces a good one.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stores import manifest
from stores.errors import IntegrityError, RealMixError, StoreError, out_of_memory
from trainer.ema import Ema
from trainer.telemetry import Telemetry

FORMAT = 2
FILE = "checkpoint.pt"
AGAIN = "start a new run under another --name"


@dataclass
class State:
    """All that a step or an evaluation changes.

    Attributes:
        method: the method's own tensors, on the device.
        step: updates done.
        seconds: of training and evaluation, over all resumptions.
        history: one {"step", "test_error", "valid_error", …} per evaluation, see `Evaluator.run`.
        confusion: int64 [K, K] of the last evaluation.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    telemetry: Telemetry
    method: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    confusion: Tensor | None = None


def save(folder: Path, state: State, identity: dict[str, Any]) -> None:
    """Replace `folder`'s checkpoint.

    Args:
        identity: what the run is — its store's fingerprint and its settings — to be found equal on resuming.

    Raises:
        RealMixError: a weight is not finite; the old checkpoint stays.
    """
    floats = [*state.model.state_dict().values(), *state.ema.shadow, *state.method.values()]
    norms = torch.stack(torch._foreach_norm([tensor for tensor in floats if tensor.is_floating_point()]))
    if not torch.isfinite(norms).all():
        raise RealMixError(
            f"a weight became non-finite by step {state.step}",
            "its loss was finite",
            f"the last good checkpoint stays in '{folder}'",
        )
    content = {
        "format": FORMAT,
        "identity": identity,
        "step": state.step,
        "seconds": state.seconds,
        "history": state.history,
        "confusion": state.confusion,
        "model": state.model.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "telemetry": state.telemetry.state_dict(),
        "method": state.method,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    manifest.write_atomically(folder / FILE, buffer.getbuffer())


def read(folder: Path, device: torch.device) -> dict[str, Any]:
    """Content of `folder`'s checkpoint, see `save`.

    Raises:
        StoreError: there is none, or it is of another format.
        IntegrityError: it is truncated or damaged.
    """
    path = folder / FILE
    try:
        with zipfile.ZipFile(path) as file:  # torch reads its zip files without looking at their checksums
            if (part := file.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of '{part}' does not match")
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise StoreError(f"'{folder}' has no checkpoint", f"there is no '{path}'", AGAIN) from None
    except pickle.UnpicklingError:  # torch's own words advise to load it all the same, which would run what it holds
        why = "it holds more than numbers, and may run code when it is read: realmix never writes such a file"
        raise IntegrityError(f"'{path}' is no checkpoint of realmix", why, AGAIN) from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        if out_of_memory(error):
            raise
        why = str(error).split("\n")[0]
        raise IntegrityError(f"the checkpoint '{path}' is truncated or damaged", why, AGAIN) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(f"'{path}' is no checkpoint of this version of realmix", hint=AGAIN)
    return content


def load(folder: Path, state: State, identity: dict[str, Any], device: torch.device) -> None:
    """Put `folder`'s checkpoint into `state`.

    Raises:
        StoreError: as `read`, or it is of a run with another identity or of an earlier form of the method.
        IntegrityError: as `read`.
    """
    content = read(folder, device)
    differing = [name for name in identity if content["identity"].get(name) != identity[name]]
    if differing:
        why = f"it differs in {', '.join(differing)}"
        raise StoreError(f"'{folder / FILE}' is the checkpoint of another run", why, AGAIN)
    if content["method"].keys() != state.method.keys():  # a method that remembered something else
        raise StoreError(f"'{folder / FILE}' is no checkpoint of this version of realmix", hint=AGAIN)
    state.model.load_state_dict(content["model"])
    state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.telemetry.load_state_dict(content["telemetry"], device)
    for name, tensor in state.method.items():
        tensor.copy_(content["method"][name])
    state.step, state.seconds = content["step"], content["seconds"]
    state.history = content["history"]
    state.confusion = None if content["confusion"] is None else content["confusion"].cpu()
