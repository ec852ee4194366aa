"""Networks by name, as the trainer trains them."""

from __future__ import annotations

from collections.abc import Sequence

from networks.head import Head
from networks.network import Network
from networks.pretrained import Pretrained, is_pretrained, load_backbone
from networks.wide_resnet import build_wide_resnet


def build_model(
    name: str,
    num_classes: int,
    bn_momentum: float = 0.001,
    heads: Sequence[Head] = (),
    *,
    weights: str = "none",
    size: int | None = None,
    frozen: bool = False,
) -> Network:
    """A network by name: float32 or lower [n, 3, H, W] in [−1, 1] to logits float32 [n, num_classes].

    Args:
        name: `wrn-{depth}-{width}`. depth = 6n+4: three groups of n blocks, widths 16w·(1, 2, 4); depth = 8n+5: four
            groups, widths 16w·(1, 2, 4, 8). WRN-28-2 is the paper's, WRN-37-2 the one for 96×96 images. Or `timm:NAME`
            or `torchvision:NAME`.
        bn_momentum: share of the newest batch in the running statistics (PyTorch's sense).
        heads: heads besides the classifier.
        weights, size: of timm's and torchvision's, see `load_backbone`.
        frozen: BatchNorm normalises by its running statistics in training too.

    Raises:
        RealMixError: no network has this name; the errors of `load_backbone`.
    """
    network: Network
    if is_pretrained(name):
        network = Pretrained(load_backbone(name, weights, size), num_classes, bn_momentum, heads)
    else:
        network = build_wide_resnet(name, num_classes, bn_momentum, heads)
    network.frozen = frozen
    return network
