"""Asynchronous copies to the GPU: on a stream of their own, ahead of the step, without anybody waiting on the host.

The thread that prepares a step enters `aside`, sends what it made and records an event; the training thread makes its
own stream wait for that event. On a CPU all of it is the identity. Page-locked memory comes from torch's caching host
allocator, which reuses it when the copy from it is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Transfer:
    """Moves tensors to `device`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._stream is not None:  # images may still be on their way to the GPU
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def aside(self) -> contextlib.AbstractContextManager[object]:
        """Within, the calling thread's GPU work goes to the stream of the transfer."""
        return torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()

    def send(self, inputs: T) -> tuple[T, torch.cuda.Event | None]:
        """Move every tensor of `inputs` (see `each_tensor`); call it within `aside`.

        Returns:
            the moved inputs, and the event that they have arrived; None on a CPU.
        """
        if self._stream is None:
            return inputs, None
        sent = each_tensor(inputs, self._move)
        event = torch.cuda.Event()
        event.record(self._stream)
        return sent, event

    def receive(self, inputs: T, event: torch.cuda.Event | None) -> T:
        """Hand over what was sent: later work on the calling thread's current stream comes after the event."""
        if event is None:
            return inputs
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)

        def used(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)  # its memory belongs to the other stream, which must not reuse it yet
            return tensor

        return each_tensor(inputs, used)

    def _move(self, tensor: Tensor) -> Tensor:
        if tensor.device == self._device:
            return tensor
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(self._device, non_blocking=True)


def each_tensor(inputs: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same dataclass, mapping or tuple with `change` applied to every tensor in it; anything else is kept."""
    found: Any = inputs
    if isinstance(found, Tensor):
        return change(found)  # type: ignore[return-value]
    if isinstance(found, Mapping):
        return {name: each_tensor(value, change) for name, value in found.items()}  # type: ignore[return-value]
    if isinstance(found, tuple):
        return tuple(each_tensor(value, change) for value in found)  # type: ignore[return-value]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        fields = {f.name: each_tensor(getattr(found, f.name), change) for f in dataclasses.fields(found)}
        return dataclasses.replace(found, **fields)  # type: ignore[return-value]
    return inputs


def tensors_of(inputs: object) -> list[Tensor]:
    """Every tensor that `each_tensor` would change, always in the same order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each_tensor(inputs, note)
    return found
