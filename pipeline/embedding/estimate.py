"""What embeddings take, before a job begins: bytes, which are known, and seconds, measured on a few batches."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from pipeline.building.facts import size
from pipeline.building.plan import bytes_there, duration, free_bytes
from pipeline.embedding.ahead import ahead, pool
from pipeline.embedding.files import row_blocks
from pipeline.embedding.frozen import Frozen
from pipeline.embedding.pictures import Pictures, pictures_of
from stores import DatasetStore
from stores.embeddings import layouts
from stores.errors import ResourceError
from stores.format.layout import ArrayLayout
from stores.storage.location import Location
from stores.system.text import print_table

MARGIN = 1.05  # zstd makes nothing of most embeddings
BUDGET_S = 3.0  # seconds to measure each array


@dataclass(frozen=True)
class Estimate:
    """What a job takes.

    Attributes:
        pictures: number of each array's.
        rates: pictures per second of each array, on this machine.
        seconds: for all of them.
        total_bytes: of the embeddings.
        free_bytes: free space now; None in object storage.
        fits: whether they fit; None in object storage.
    """

    store: str
    backbone: str
    size: int
    num_features: int
    precision: str
    device: str
    pictures: dict[str, int]
    rates: dict[str, float]
    seconds: float
    total_bytes: int
    free_bytes: int | None
    fits: bool | None

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def estimate(dataset: DatasetStore, frozen: Frozen, content: dict[str, Any], path: Location) -> Estimate:
    """Embed a few batches of each array, and scale to all of them; nothing is written."""
    arrays = layouts(content)
    pictures = {part: prod(array.shape[:-1]) for part, array in arrays.items() if array.num_files}
    sources = pictures_of(dataset, content["spec"])
    rates = {part: _rate(frozen, arrays[part], sources[part], dataset.image_size) for part in pictures}
    total, free = _bytes(content), free_bytes(path)
    return Estimate(
        store=str(path),
        backbone=frozen.network.backbone,
        size=frozen.network.size,
        num_features=frozen.network.num_features,
        precision=frozen.precision,
        device=frozen.device,
        pictures=pictures,
        rates={part: round(rate, 1) for part, rate in rates.items()},
        seconds=round(sum(count / rates[part] for part, count in pictures.items()), 1),
        total_bytes=total,
        free_bytes=free,
        fits=None if free is None else free + bytes_there(path) >= MARGIN * total,
    )


def require_room(path: Location, content: dict[str, Any]) -> None:
    """Refuse embeddings that would not fit on the disk; files that are there count as free.

    Raises:
        ResourceError: less is free than they need.
    """
    total, free = _bytes(content), free_bytes(path)
    if free is not None and free + bytes_there(path) < MARGIN * total:
        raise ResourceError(
            f"the embeddings would not fit: they take {size(total)}",
            f"{size(free)} are free in '{path.parent}'",
            "free some space, or choose fewer --copies",
        )


def show(found: Estimate) -> None:
    """Print an estimate as a table."""
    free = "not asked: object storage" if found.free_bytes is None else f"{size(found.free_bytes)} free"
    counts = ", ".join(f"{count:,} {part}" for part, count in found.pictures.items())
    rates = ", ".join(f"{part} {rate:,.0f}" for part, rate in found.rates.items())
    print_table(
        [
            ("embeddings", found.store),
            ("network", f"{found.backbone} at {found.size} pixels, {found.num_features:,} features"),
            ("pictures", counts),
            ("pictures/s", f"{rates}  ({found.precision}, {found.device})"),
            ("time", f"about {duration(found.seconds)}"),
            ("total", size(found.total_bytes)),
            ("disk", free + ("" if found.fits is not False else "  does not fit")),
        ]
    )


def _bytes(content: dict[str, Any]) -> int:
    return sum(array.shape[0] * array.row_bytes for array in layouts(content).values())


def _rate(frozen: Frozen, array: ArrayLayout, pictures: Pictures, image: tuple[int, int]) -> float:
    """Pictures per second; the first block, which opens files and starts workers, is not counted."""
    blocks = list(row_blocks(array, pictures.copies, image, 0, frozen.batch))
    done, began = 0, 0.0
    with pool(pictures.in_processes) as workers:
        prepared = ahead(workers, pictures, itertools.cycle(blocks), max(2, workers.ahead // 2))
        for number, made in enumerate(prepared):
            frozen(made)
            if number == 0:
                began = time.monotonic()
                continue
            done += len(made)
            if time.monotonic() - began > BUDGET_S:
                break
        prepared.close()
    return done / (time.monotonic() - began)
