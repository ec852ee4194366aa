"""Networks that were trained on embeddings, as networks on images: their backbone is put below them."""

from __future__ import annotations

import dataclasses

from networks.embedded.from_images import below
from networks.embedded.linear import OnEmbeddings
from stores.errors import UsageError
from trainer.runs.weights import Trained


def from_images(trained: Trained, weights: str | None = None) -> Trained:
    """A network that reads images; one that does so already is given as it is.

    Args:
        trained: the network.
        weights: of the backbone, a file or "pretrained"; None: "pretrained", if the embeddings were made with these.

    Raises:
        UsageError: the weights are needed, or are other ones than those that made the embeddings; timm is missing.
        StoreError, IntegrityError, StorageError: as `networks.pretrained.load_backbone`.
    """
    made = trained.embedding
    if made is None:
        if weights is not None:
            raise UsageError("--weights is for networks that were trained on embeddings", "this one reads images")
        return trained
    if weights is None and made["weights"] != "pretrained":
        raise UsageError(
            f"the weights of {made['backbone']} are needed, whose embeddings the network was trained on",
            "they came from a file",
            "--weights FILE names it; `realmix-train export RUN --weights FILE` writes one model of both",
        )
    assert isinstance(trained.model, OnEmbeddings)
    model = below(trained.model, made, weights or "pretrained").requires_grad_(False)
    return dataclasses.replace(trained, model=model, made_with=made, embedding=None)
