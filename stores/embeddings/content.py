"""What a store of embeddings says of itself: the manifest's fields, the arrays that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stores.format import layout, manifest
from stores.reader import DatasetStore


@dataclass(frozen=True)
class Network:
    """The frozen network, as far as its embeddings depend on it.

    Attributes:
        backbone: its name, "timm:tf_efficientnet_lite0".
        weights: "pretrained", "none" (random) or "file".
        weights_sha256: hex digest of its tensors.
        size: side in pixels that images are resized to.
        preprocessing: mean, std and interpolation, as JSON.
        num_features: D, length of an embedding.
    """

    backbone: str
    weights: str
    weights_sha256: str
    size: int
    preprocessing: dict[str, Any]
    num_features: int


def describe(
    dataset: DatasetStore,
    network: Network,
    *,
    copies: int,
    strong: tuple[dict[str, Any], int] | None,
    weak: dict[str, Any] | None,
    precision: str,
    batch: int,
    versions: dict[str, str],
) -> dict[str, Any]:
    """The manifest without `complete`, `fingerprint` and `files`.

    Args:
        dataset: whose images are embedded.
        network: that embeds them.
        copies: K, the first copies of each training image.
        strong: spec of the recipe of the strong copies, and their number S; None: there are none.
        weak: {"flip": bool, "shift": pixels}, by which every copy is mirrored and shifted at random; None: it is not.
        precision: "fp32" or "bf16", of the network's products.
        batch: images of one forward pass.
        versions: of the libraries that the numbers depend on.
    """
    return {
        "kind": "embeddings",
        "spec": {
            "dataset": dataset.fingerprint,
            "backbone": network.backbone,
            "weights_sha256": network.weights_sha256,
            "size": network.size,
            "preprocessing": network.preprocessing,
            "copies": copies,
            "strong": None if strong is None else {"recipe": strong[0], "copies": strong[1]},
            "weak": weak,
        },
        "dataset": {"name": dataset.name},
        "weights": network.weights,
        "num_images": dataset.num_images,
        "num_test": dataset.manifest["num_test"],
        "num_features": network.num_features,
        "arithmetic": {"precision": precision, "batch": batch},
        "versions": versions,
    }


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """Hex digest of what the embeddings are a function of: images, network, copies.

    Their last bits also depend on the processor, so they are not part of it.
    """
    return manifest.fingerprint(manifest.FORMAT_VERSION, content["spec"])


def layouts(content: Mapping[str, Any]) -> dict[str, layout.ArrayLayout]:
    """The layout of each array that a store with this manifest has: of "train", "test", "copies" and "strong"."""
    spec, features = content["spec"], content["num_features"]
    counts: dict[str, tuple[int, ...]] = {"train": (content["num_images"],), "test": (content["num_test"],)}
    if spec["copies"]:
        counts["copies"] = (content["num_images"], spec["copies"])
    if spec["strong"] is not None:
        counts["strong"] = (content["num_images"], spec["strong"]["copies"])
    return {name: layout.embeddings(f"{name}/embeddings", *count, features) for name, count in counts.items()}
