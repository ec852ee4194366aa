"""A backbone and a network on its embeddings as one network on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from networks.embedded.linear import OnEmbeddings
from networks.loading import files
from networks.pretrained import Backbone, load_backbone
from stores.errors import IntegrityError, UsageError


class FromImages(nn.Module):
    """Images float [n, 3, H, W] in [−1, 1] to class logits [n, K], by way of embeddings that are standardised."""

    def __init__(self, backbone: Backbone, network: OnEmbeddings) -> None:
        super().__init__()
        self.backbone, self.network = backbone, network

    def forward(self, images: Tensor, *, heads: Sequence[str] | None = None) -> Tensor | dict[str, Tensor]:
        """Class logits or, with `heads`, several outputs by name, see `Network`; "features" are the embeddings."""
        embeddings = self.backbone(images)
        found: Tensor | dict[str, Tensor]
        found = self.network((embeddings - self.network.mean) / self.network.std, heads=heads)
        if isinstance(found, dict) and "features" in found:
            found["features"] = embeddings
        return found


def below(network: OnEmbeddings, embedding: Mapping[str, Any], weights: str) -> FromImages:
    """Put the backbone below a network that was trained on its embeddings.

    Args:
        network: on embeddings.
        embedding: what made them: backbone, its name; weights_sha256; size in pixels.
        weights: of the backbone, as `load_backbone` takes them.

    Raises:
        UsageError: these are other weights than the ones that made the embeddings; also as `load_backbone`.
    """
    backbone = _load(embedding, weights)
    if backbone.weights_sha256 != embedding["weights_sha256"]:
        raise UsageError(
            f"the weights '{weights}' of {embedding['backbone']} are not the ones that made the embeddings",
            f"their SHA-256 is {backbone.weights_sha256[:12]}…, of those {embedding['weights_sha256'][:12]}…",
            "--weights FILE names the file that `realmix-data embed` was given",
        )
    return FromImages(backbone.eval(), network)


def of_tensors(network: OnEmbeddings, embedding: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FromImages:
    """As `below`, with the backbone's tensors by name.

    Raises:
        IntegrityError: they are not the ones that made the embeddings.
        UsageError: timm or torchvision is missing, or too old to have the backbone.
    """
    backbone = _load(embedding, "none")
    try:
        backbone.net.load_state_dict(dict(tensors))
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise IntegrityError(f"the weights of {embedding['backbone']} are damaged", why) from None
    backbone.weights_sha256 = files.sha256_of(backbone.net.state_dict())
    if backbone.weights_sha256 != embedding["weights_sha256"]:
        raise IntegrityError(
            f"the weights of {embedding['backbone']} are damaged", "they are not the ones that made the embeddings"
        )
    return FromImages(backbone.eval(), network)


def _load(embedding: Mapping[str, Any], weights: str) -> Backbone:
    """The backbone as `realmix-data embed` uses it: on whole pictures, for those of a store are cropped already."""
    backbone = load_backbone(embedding["backbone"], weights, embedding["size"])
    backbone.preprocessing = {**backbone.preprocessing, "crop": 1.0}
    return backbone
