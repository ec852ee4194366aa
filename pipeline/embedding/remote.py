"""Embedding on a Dask cluster: `realmix-data embed … --dask ADDRESS`.

A task is the location of the embeddings and a file's number. The worker reads the pictures, embeds them, writes the
file and returns its checksum. Its batches are those of a job on one machine: the same processor gives the same bytes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from pipeline.embedding.files import encoded, row_blocks
from pipeline.embedding.frozen import Frozen, load_again, versions
from pipeline.embedding.pictures import pictures_of
from stores.embeddings import open_with_dataset
from stores.errors import StoreError
from stores.format import layout
from stores.format.journal import Record
from stores.writer import write_file

_loading = threading.Lock()  # the threads of a worker share one network


@dataclass(frozen=True)
class EmbedFile:
    """A picklable task: embed the pictures of one file of an array.

    Attributes:
        place: location of the embeddings, which another process has begun; their dataset store lies beside them.
        part: "train", "test", "copies" or "strong".
        weights: "pretrained", "none" or the absolute path of a file.
        device: "auto", "cpu" or "cuda".
        versions: of the libraries that the numbers depend on, where the job began.
    """

    place: str
    part: str
    weights: str
    device: str
    versions: Mapping[str, str]

    def __call__(self, index: int) -> Record:
        """Write file `index`; returns its record for the journal.

        Raises:
            UsageError: the network or the device cannot be used here.
            StoreError: dataset store or weights are not there or others, or a library has another version.
            IntegrityError: a picture is damaged.
            RealMixError: an embedding is not finite.
        """
        store, dataset = open_with_dataset(self.place, incomplete=True)
        with _loading:
            frozen = _network(json.dumps(store.manifest), self.weights, self.device)
        for name, here in versions().items():
            there = self.versions.get(name, "none")
            if _release(here) != _release(there):
                raise StoreError(f"{name} has version {here}", f"the job began with {there}", "use one version")
        array = layout.load(store.path, f"{self.part}/embeddings")
        pictures = pictures_of(dataset, store.manifest["spec"])[self.part]
        blocks = row_blocks(array, pictures.copies, dataset.image_size, index, frozen.batch)
        embeddings = torch.cat([frozen(pictures(rows)) for rows in blocks])
        return write_file(store.path, array, index, encoded(array, index, embeddings))


@lru_cache(maxsize=1)
def _network(content: str, weights: str, device: str) -> Frozen:
    return load_again(json.loads(content), weights, device)


def _release(version: str) -> str:
    """Without what a build for another device adds: "2.9.0" of "2.9.0+cu128"."""
    return version.partition("+")[0]
