"""Checkpoints: one file that holds all that a step changes, replaced atomically, loaded without running code.

There is no generator state: order and draws are functions of (seed, step). A file that is not whole is an error;
nothing is repaired or skipped, and a state with a non-finite number never replaces a good one.

The file is torch's zip file; the zip's comment, `sha256:…`, is the SHA-256 of all bytes before it. torch looks at no
checksum of a zip file. Files of before this have none, and the checksums of the zip's parts are compared instead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stores.errors import IntegrityError, RealMixError, StoreError, out_of_memory
from stores.format import manifest
from stores.format.fields import MOST, Check, failed, instance_of, list_of, number, or_none, text, whole
from trainer import config
from trainer.ema import Ema
from trainer.runs import fields
from trainer.runs.run_dir import damaged, read_bytes
from trainer.runs.telemetry import Telemetry

FORMAT = 2
FILE = "checkpoint.pt"
CPU = torch.device("cpu")
AGAIN = "start a new run under another --name"
_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})\Z")
_COMMENT_BYTES = 71


class Optimizer(Protocol):
    """What a step and a checkpoint ask of an optimizer; torch.optim's classes have it too."""

    param_groups: list[dict[str, Any]]

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, content: Mapping[str, Any], /) -> None: ...


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
    optimizer: Optimizer
    ema: Ema
    telemetry: Telemetry
    method: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    confusion: Tensor | None = None


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run this one and no other, from the content of its config.json; its checkpoints hold it too.

    A run that is made longer stays the same one: what counts is the length that its schedules are made for.
    """
    run = config.without(record["run"], "on_resume")
    run["schedule_steps"] = run.get("schedule_steps") or run["steps"]
    del run["steps"]
    return {"store": record["store"]["fingerprint"], "run": run, "settings": record["settings"]}


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
    data = buffer.getbuffer()
    data[-2:] = _COMMENT_BYTES.to_bytes(2, "little")  # the end of a zip file without a comment: the length of that
    digest = hashlib.sha256(data).hexdigest()
    data.release()
    buffer.seek(0, io.SEEK_END)
    buffer.write(f"sha256:{digest}".encode())
    manifest.write_atomically(folder / FILE, buffer.getbuffer())


def read(folder: Path, device: torch.device) -> dict[str, Any]:
    """Content of `folder`'s checkpoint, see `save`.

    Raises:
        StoreError: there is none, or it is of another format.
        IntegrityError: it is truncated or damaged.
    """
    path = folder / FILE
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise StoreError(f"'{folder}' has no checkpoint", f"there is no '{path}'", AGAIN) from None
    try:
        _require_whole(data)
        content = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to load it all the same, which would run what it holds
        why = "it holds more than numbers, and may run code when it is read: realmix never writes such a file"
        raise IntegrityError(f"'{path}' is no checkpoint of realmix", why, AGAIN) from None
    except Exception as error:  # whatever zip and pickle make of any bytes
        if out_of_memory(error):
            raise
        why = str(error).split("\n")[0]
        raise damaged(path, f"it is truncated or damaged: {why}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(f"'{path}' is no checkpoint of this version of realmix", hint=AGAIN)
    if wrong := failed(content, _FIELDS):
        raise damaged(path, f"wrong or missing: {', '.join(wrong)}")
    return content


def _require_whole(data: bytes) -> None:
    """Raises BadZipFile if the bytes are not those that were written, or would take more memory than they are."""
    said = _COMMENT.search(data[-_COMMENT_BYTES:])
    if said is not None and hashlib.sha256(data[:-_COMMENT_BYTES]).hexdigest() != said[1].decode():
        raise zipfile.BadZipFile("it is not what its own checksum says")
    if said is None and data[-2:] != b"\0\0":  # how a zip file ends that has no comment
        raise zipfile.BadZipFile("its end is missing")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        parts = file.infolist()
        if sum(part.file_size for part in parts) > len(data) or any(part.compress_type for part in parts):
            raise zipfile.BadZipFile("its parts are larger than the file")
        if said is None and (part := file.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of '{part}' does not match")


def read_own(folder: Path, identity: Mapping[str, Any], device: torch.device = CPU) -> dict[str, Any]:
    """As `read`, of a run of this identity, or of these parts of it; see `save`.

    Raises:
        StoreError: as `read`, or it is another run's.
        IntegrityError: as `read`.
    """
    content = read(folder, device)
    own, asked = (_with_later_settings(said) for said in (content["identity"], identity))
    differing = [name for name in asked if own.get(name) != asked[name]]
    if differing:
        why = f"it differs in {', '.join(differing)}"
        raise StoreError(f"'{folder / FILE}' is the checkpoint of another run", why, AGAIN)
    return content


def _with_later_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with the settings that a run of before them did not have: it was trained as their defaults say."""
    run = identity.get("run")
    if not isinstance(run, dict):
        return dict(identity)
    run = config.without(dataclasses.asdict(config.RunConfig()), "on_resume") | run
    length = run.pop("steps")
    return {**identity, "run": run | {"schedule_steps": run["schedule_steps"] or length}}


def restore(folder: Path, content: dict[str, Any], state: State, steps: int, device: torch.device) -> None:
    """Put what `read_own` gave of `folder` into `state`; `steps`: length of the run.

    Raises:
        StoreError: it is of an earlier form of the method.
        IntegrityError: it does not fit the state.
    """
    path = folder / FILE
    if content["method"].keys() != state.method.keys():  # a method that remembered something else
        raise StoreError(f"'{path}' is no checkpoint of this version of realmix", hint=AGAIN)
    for part, own in (("model", state.model.state_dict()), ("ema", state.ema.state_dict()), ("method", state.method)):
        found = content[part]
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in found.items()}:
            raise damaged(path, f"its {part} is of another network")
        if not all(bool(t.isfinite().all()) for t in found.values()):
            raise damaged(path, f"its {part} holds a number that is not finite")
    try:
        state.model.load_state_dict(content["model"])
        state.ema.load_state_dict(content["ema"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.telemetry.load_state_dict(content["telemetry"], device)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"it does not fit the run: {error}") from None
    for name, tensor in state.method.items():
        tensor.copy_(content["method"][name])
    evaluated = content["history"] and content["confusion"] is not None
    if content["step"] > steps or (content["step"] == steps and not evaluated):
        raise damaged(path, f"it is of step {content['step']:,} of {steps:,}, without its evaluation")
    state.step, state.seconds = content["step"], content["seconds"]
    state.history = content["history"]
    state.confusion = None if content["confusion"] is None else content["confusion"].cpu()


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(text(name) and isinstance(t, Tensor) for name, t in value.items())


_FIELDS: dict[str, Check] = {
    "identity": instance_of(dict),
    "step": whole(0),
    "seconds": number(0, MOST),
    "history": fields.history,
    "confusion": or_none(instance_of(Tensor)),
    "model": _tensors,
    "ema": _tensors,
    "method": _tensors,
    "optimizer": instance_of(dict),
    "telemetry.columns": list_of(text),
    "telemetry.rows": or_none(instance_of(Tensor)),
    "telemetry.used": whole(0),
    "telemetry.counts": instance_of(dict),
}
