"""What happens to a network once, before the first step: BatchNorm's statistics (bn=adapted), an imprinted classifier.

Both look at the run's own images and are functions of its seed. A run that is resumed has them in its checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from networks.layers import processes
from networks.layers.batch_norm import BatchNorm
from networks.network import Network
from stores import SplitStore
from stores.draws import generator
from trainer.augment import flip_shift
from trainer.config import Resolved
from trainer.contract import Views
from trainer.data.placement import unlabeled_rows

BATCH = 64
SHARPNESS = 10.0  # logit of an image that lies in the direction of its class


def prepare(model: Network, store: SplitStore, declared: Views, run: Resolved, device: torch.device) -> None:
    """Prepare a network that was just built or loaded, in place."""
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "bf16")
    with processes.alone(), autocast, torch.no_grad():
        if run.bn == "adapted":
            rows = unlabeled_rows(store, declared) if declared.unlabeled else np.unique(store.labeled)
            adapt(model, _weak_views(store, rows, run, device))
        if run.head == "imprinted":
            rows = np.unique(store.labeled)
            images = (flip_shift.scale(pixels) for pixels in _pixels(store, rows, device))
            imprint(model, images, torch.from_numpy(store.train_labels[rows]).to(device))


def adapt(model: Network, batches: Iterator[Tensor]) -> None:
    """Replace BatchNorm's running statistics by the mean of those of these batches, in one pass."""
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [norm.momentum for norm in norms]
    frozen, model.frozen = model.frozen, False
    for i, images in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (i + 1)
        model(images, update=0)
    model.frozen = frozen
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def imprint(model: Network, batches: Iterator[Tensor], labels: Tensor) -> None:
    """Set the classifier to the mean features of each class (Qi et al. 2018), seen from the mean of all.

    logits = s · ⟨f − m, u_k⟩ / r with u_k the direction of class k's mean from the mean m of the classes, and r the
    mean distance of the features from m: about s · the cosine of the two.

    Args:
        batches: images, all labels' in their order.
        labels: int64 [n] in [0, K); a class without any has the logit 0.
    """
    features = torch.cat([model(images, running=True, heads=["features"])["features"] for images in batches])
    classes = model.head.out_features
    member = torch.nn.functional.one_hot(labels, classes).to(features.dtype)
    count = member.sum(0)
    means = (member.T @ features) / count.clamp(min=1)[:, None]
    center = means[count > 0].mean(0)
    directions = torch.nn.functional.normalize((means - center) * (count > 0)[:, None])
    radius = (features - center).norm(dim=1).mean().clamp(min=1e-6)
    model.head.weight.copy_(SHARPNESS * directions / radius)
    model.head.bias.copy_(-(model.head.weight @ center))


def _pixels(store: SplitStore, rows: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    """Batches of as equal a size as can be, uint8 [n, H, W, 3]."""
    for part in np.array_split(rows, -(-len(rows) // BATCH)):
        yield torch.from_numpy(store.dataset.train_images.read(part)).to(device)


def _weak_views(store: SplitStore, rows: np.ndarray, run: Resolved, device: torch.device) -> Iterator[Tensor]:
    """One weak view of each image, in an order of chance: a batch of one class would have statistics of its own."""
    rng = generator(run.seed, "adapt", 0)
    for pixels in _pixels(store, rng.permutation(rows), device):
        drawn = flip_shift.draw_weak(rng, len(pixels), run.flip, run.shift)
        yield flip_shift.weak(pixels, torch.from_numpy(drawn).to(device))
