"""Networks by name, as the trainer trains them."""

from __future__ import annotations

from collections.abc import Sequence

from networks.head import Head
from networks.network import Network
from networks.wide_resnet import build_wide_resnet


def build_model(name: str, num_classes: int, bn_momentum: float = 0.001, heads: Sequence[Head] = ()) -> Network:
    """A network by name: float32 or lower [n, 3, H, W] in [−1, 1] to logits float32 [n, num_classes].

    Args:
        name: `wrn-{depth}-{width}`. depth = 6n+4: three groups of n blocks, widths 16w·(1, 2, 4); depth = 8n+5: four
            groups, widths 16w·(1, 2, 4, 8). WRN-28-2 is the paper's, WRN-37-2 the one for 96×96 images.
        bn_momentum: share of the newest batch in the running statistics (PyTorch's sense).
        heads: heads besides the classifier.

    Raises:
        UsageError: no network has this name.
    """
    return build_wide_resnet(name, num_classes, bn_momentum, heads)
