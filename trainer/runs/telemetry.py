"""Metrics of the steps since the last log line, kept on the device and read once per line.

Reading is the only moment at which the loop waits for the device; it is also where a non-finite loss is noticed, with
its exact step. Nothing here prints or writes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.contract import Losses

COUNTS = ("masked_ood", "masked", "ood", "rows")


class Telemetry:
    """One row of numbers per step, at most `capacity` rows between two calls of `flush`.

    Attributes:
        counts: over the whole run, for stores that know which unlabelled images are of no training class: rows that the
            mask dropped and were OOD, rows dropped, OOD rows, all rows. Empty otherwise.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._columns: list[str] = []
        self._rows: Tensor | None = None
        self._used = 0
        self.counts: dict[str, float] = {}

    @torch.no_grad()
    def add(self, losses: Losses, ood: Tensor | None) -> None:
        """Record a step; `ood` is bool [U] or None. Does not wait for the device."""
        values = {"loss": losses.total.detach(), **losses.metrics}
        if ood is not None and losses.keep_u is not None:
            masked = 1 - losses.keep_u
            is_ood = ood.repeat(len(masked) // len(ood)).to(masked.dtype)
            rows = torch.full_like(values["loss"], len(masked))
            values |= zip(COUNTS, ((masked * is_ood).sum(), masked.sum(), is_ood.sum(), rows), strict=True)
        row = torch.stack([value.to(torch.float32) for value in values.values()])
        if self._rows is None:
            self._columns = list(values)
            self._rows = row.new_zeros((self._capacity, len(row)))
        self._rows[self._used].copy_(row)
        self._used += 1

    def first_bad(self) -> int | None:
        """How many recorded steps came before the first with a non-finite loss; None if all are finite. Waits."""
        if self._rows is None or not self._used:
            return None
        bad = (~torch.isfinite(self._rows[: self._used, 0])).nonzero()
        return int(bad[0]) if len(bad) else None

    @property
    def pending(self) -> int:
        """Steps recorded since the last `flush`."""
        return self._used

    def flush(self) -> dict[str, float]:
        """Means of the recorded steps and the mask's precision and recall; forgets the steps. Waits."""
        assert self._rows is not None, "nothing recorded"
        assert self._used
        means = dict(zip(self._columns, self._rows[: self._used].cpu().double().mean(0).tolist(), strict=True))
        counts = {name: round(means.pop(name) * self._used) for name in COUNTS if name in means}
        self._used = 0
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        return means | {f"ood_{name}": value for name, value in mask_quality(counts).items() if value is not None}

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: also the steps since the last line, so that a resumed run's next line is the same."""
        rows = None if self._rows is None else self._rows.cpu()
        return {"columns": self._columns, "rows": rows, "used": self._used, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self._columns, self._used, self.counts = list(state["columns"]), state["used"], dict(state["counts"])
        self._rows = None if state["rows"] is None else state["rows"].to(device)


def mask_quality(counts: dict[str, float]) -> dict[str, float | None]:
    """Precision: share of masked rows that were OOD; recall: share of OOD rows that were masked. In [0, 1] or None."""
    if not counts:
        return {}
    return {
        "precision": counts["masked_ood"] / counts["masked"] if counts["masked"] else None,
        "recall": counts["masked_ood"] / counts["ood"] if counts["ood"] else None,
    }
