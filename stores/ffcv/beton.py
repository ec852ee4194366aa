"""FFCV's file format as this package uses it: the fields of a `.beton`, its size, and whether it is intact.

A store has up to two: `train.beton` with the training images and `copies.beton` with their copies. Sample i of the
latter is copy i mod A of row i div A. FFCV trusts every number in a file, so `check` validates them all before FFCV
reads it. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stores.errors import IntegrityError, ResourceError, UsageError, install
from stores.storage.location import Location

TRAIN, COPIES = "train.beton", "copies.beton"
VERSION = 2  # of FFCV's file format
BASE = -1  # value of the field `copy` for the image itself
META_BYTES, TABLE_BYTES = 32, 24  # of a sample: four 8-byte fields, and its entry in the allocation table
HEADER_BYTES, FIELD_BYTES = 24, 1041
SMALLEST_PAGE = 2 << 20
APT = "pkg-config libturbojpeg0-dev libopencv-dev g++"


@dataclass(frozen=True)
class Beton:
    """One `.beton` of a store.

    Attributes:
        name: file name inside the store.
        rows: number of images.
        copies: copies of each image that it holds; 0: it holds the images themselves.
        image: (H, W, 3), uint8.
    """

    name: str
    rows: int
    copies: int
    image: tuple[int, int, int]

    @property
    def samples(self) -> int:
        return self.rows * (self.copies or 1)

    @property
    def image_bytes(self) -> int:
        return int(np.prod(self.image, dtype=np.int64))

    @property
    def page(self) -> int:
        """Bytes of a page; an image does not cross pages, so a page holds many images."""
        return max(SMALLEST_PAGE, 1 << (8 * self.image_bytes - 1).bit_length())

    @property
    def table_at(self) -> int:
        """Offset of the allocation table: after the header, the fields of the samples and the pages of images."""
        fields = HEADER_BYTES + 4 * FIELD_BYTES + self.samples * META_BYTES
        first = -(-fields // self.page) * self.page
        return first + -(-self.samples // (self.page // self.image_bytes)) * self.page

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return self.table_at + self.samples * TABLE_BYTES

    def fields(self) -> dict[str, Any]:
        """FFCV's fields, in order: pixels, row, copy and the CRC32C of the pixels (FFCV itself checks nothing)."""
        import_ffcv()
        from ffcv.fields import IntField, NDArrayField

        return {
            "image": NDArrayField(np.dtype("uint8"), self.image),
            "row": IntField(),
            "copy": IntField(),
            "crc32c": IntField(),
        }


def betons(rows: int, copies: int, size: Sequence[int]) -> list[Beton]:
    """The betons of a store.

    Args:
        rows: number of training images.
        copies: copies of each; 0: there is no beton of copies.
        size: (H, W) of the images.
    """
    height, width = size
    image = (height, width, 3)
    return [Beton(TRAIN, rows, 0, image)] + ([Beton(COPIES, rows, copies, image)] if copies else [])


def describe(made: list[Beton]) -> dict[str, Any]:
    """The field `ffcv` of the manifest."""
    return {
        "format_version": VERSION,
        "fields": {"image": "uint8 [H, W, 3]", "row": "int64", "copy": "int64, -1 = the image", "crc32c": "int64"},
        "order": "row-major: copies of a row are adjacent",
        "samples": {beton.name: beton.samples for beton in made},
    }


def check(path: Path, beton: Beton) -> None:
    """Compare everything in a file but its pixels with what FFCV's writer makes of `beton`.

    Raises:
        IntegrityError: it is missing, truncated, or altered so that FFCV would read out of bounds.
    """
    if not path.is_file():
        raise IntegrityError(f"'{path}' is missing", "the manifest says that it was written", _hint(path))
    size = path.stat().st_size
    if size != beton.bytes:
        raise IntegrityError(f"'{path}' is damaged", f"{size} bytes instead of {beton.bytes}", _hint(path))
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES + 4 * FIELD_BYTES)
        meta = np.fromfile(file, "<i8", beton.samples * 4).reshape(-1, 4)
        file.seek(beton.table_at)
        table = np.fromfile(file, "<i8", beton.samples * 3).reshape(-1, 3)
    places, sizes = np.sort(table[:, 1]), table[:, 2]
    rows, copies = np.divmod(np.arange(beton.samples), beton.copies or 1)
    sound = {
        "its header or fields": head == _head(beton),
        "the ids of its samples": np.array_equal(meta[:, 1], rows)
        and np.array_equal(meta[:, 2], copies if beton.copies else np.full_like(copies, BASE)),
        "where its images lie": np.array_equal(np.sort(meta[:, 0]), places)
        and bool((sizes == beton.image_bytes).all())
        and bool((np.diff(places) >= beton.image_bytes).all())
        and (not beton.samples or (places[0] >= len(head) and places[-1] + beton.image_bytes <= beton.table_at)),
    }
    if wrong := [what for what, well in sound.items() if not well]:
        raise IntegrityError(
            f"'{path}' is damaged", f"wrong: {', '.join(wrong)}; FFCV's writer did not leave it so", _hint(path)
        )


def require_ffcv() -> None:
    """Raise a UsageError if FFCV is not installed; does not import it, which takes seconds."""
    if importlib.util.find_spec("ffcv") is None:
        raise _not_installed("it is not installed")


def import_ffcv() -> None:
    """Import FFCV, or raise a UsageError that says what to install."""
    try:
        with torch_threads_kept():
            importlib.import_module("ffcv.loader")
    except (ImportError, OSError) as error:  # OSError: a system library is gone
        raise _not_installed(f"it cannot be imported: {error}") from None


def require_local(store: Location) -> Path:
    """The folder of a store.

    Raises:
        UsageError: it is in object storage, where FFCV cannot map it into memory.
    """
    if not isinstance(store, Path):
        raise UsageError(
            f"'{store}' cannot hold the FFCV format",
            "FFCV reads and writes files of this computer only",
            "copy the store into a folder, or use the zarr format there",
        )
    return store


def require_space(folder: Path, made: list[Beton]) -> None:
    """Raise a ResourceError if the betons do not fit on the disk."""
    folder = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    needed, free = sum(beton.bytes for beton in made), shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"the FFCV files take {needed / 1e9:.2f} GB, '{folder}' has {free / 1e9:.2f} GB free",
            "FFCV stores every copy uncompressed",
            "free some space; the zarr format takes a tenth or less",
        )


@contextlib.contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Restore torch's number of threads at the end of the block; FFCV sets it on import and for every loader."""
    torch = importlib.import_module("torch")  # which FFCV imports too
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _not_installed(why: str) -> UsageError:
    return UsageError(
        "the FFCV format needs the package ffcv",
        why,
        f"apt-get install -y {APT}, then {install('ffcv')}; the zarr format needs neither",
    )


def _head(beton: Beton) -> bytes:
    """The first bytes of the file as FFCV's DatasetWriter writes them."""
    import_ffcv()
    from ffcv.types import TYPE_ID_HANDLER, FieldDescType, HeaderType

    header, fields = np.zeros(1, HeaderType), np.zeros(4, FieldDescType)
    header["version"], header["num_fields"], header["page_size"] = VERSION, 4, beton.page
    header["num_samples"], header["alloc_table_ptr"] = beton.samples, beton.table_at
    types = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
    for entry, (name, field) in zip(fields, beton.fields().items(), strict=True):
        entry["type_id"] = types[type(field)]
        entry["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        entry["arguments"][:] = field.to_binary()[0]
    head = header.tobytes() + fields.tobytes()
    assert len(head) == HEADER_BYTES + 4 * FIELD_BYTES
    return head


def _hint(path: Path) -> str:
    return f"`realmix-data export {path.parent} --format ffcv` writes it again"
