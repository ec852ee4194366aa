"""What every network is to a method: pooled features, a classifier and declared heads on them, from one pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from networks.head import Head

BACKBONE = ("stem", "blocks", "bn", "backbone")  # the modules below the heads; all other parameters belong to a task
CLASSIFIER = "head"


class Network(nn.Module):
    """A backbone with its heads. A subclass builds its layers, then calls `add_heads`, and defines `embed`.

    Attributes:
        heads: the declared heads besides the classifier; the module of each has the head's name.
        joint: groups of rows go through the layers together, which is what a compiler and a GPU like, or (False) one
            after the other, which is faster where they are larger than the cache.
        frozen: normalise by the running statistics in every pass, as in evaluation.
    """

    head: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.joint = self.frozen = False
        self.heads: tuple[Head, ...] = ()

    def add_heads(self, num_features: int, num_classes: int, heads: Sequence[Head]) -> None:
        """Add the classifier and the heads, after all layers below them.

        Raises:
            ValueError: a head has the name of something else.
        """
        self.head = nn.Linear(num_features, num_classes)
        self.initialise()
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.heads, widths = tuple(heads), {head.name: head.widths(num_classes, num_features)[-1] for head in heads}
        for head in heads:  # drawn last, so that the other weights are the same with them and without
            if hasattr(self, head.name) or head.name in ("features", "classes"):
                raise ValueError(f"a head cannot be called '{head.name}'")
            below = num_features if head.on is None else widths[head.on]
            self.add_module(head.name, _layers(head, below, head.widths(num_classes, num_features)))

    @property
    def trains_features(self) -> bool:
        """Whether anything below the heads has parameters; if not, the features are what they were given as."""
        heads = {CLASSIFIER, *(head.name for head in self.heads)}
        return any(name.split(".")[0] not in heads for name, _ in self.named_parameters())

    def initialise(self) -> None:
        """Draw the layers below the heads. Here and not earlier, so that runs of earlier versions can be repeated."""

    def check(self, batch: int, size: tuple[int, int]) -> None:
        """Raises UsageError for a batch of images of this (height, width) that the network cannot be trained on."""

    def layers(self) -> dict[str, int]:
        """The layer of every parameter below the heads, by name, from 0 for the first."""
        return in_order([name for name, _ in self.named_parameters() if name.split(".")[0] in BACKBONE])

    @abstractmethod
    def embed(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        """Rows [n, …] to features [n, D], float32 also under autocast; see `forward`."""

    def classify(self, features: Tensor) -> Tensor:
        """Features [n, D] to class logits [n, num_classes]."""
        logits: Tensor = self.head(features)
        return logits

    def forward(
        self,
        rows: Tensor,
        groups: int = 1,
        update: int | None = None,
        *,
        running: bool = False,
        heads: Sequence[str] | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Class logits [n, num_classes] of images or, with `heads`, several outputs; float32 also under autocast.

        Args:
            rows: float32 or lower [n, 3, H, W] in [−1, 1], `groups` batches of equal size one after the other.
            groups: each is normalised by its own statistics, as if it went through the network alone.
            update: the group whose statistics move BatchNorm's running ones; None: none does.
            running: normalise by the running statistics, as in evaluation mode.
            heads: names of the outputs to return, by name: "features" [n, D], "classes" [n, num_classes], or those of
                the network's other heads.
        """
        running = running or self.frozen
        if self.joint or groups == 1:
            features = self.embed(rows, groups, update, running)
        else:
            parts = enumerate(rows.chunk(groups))
            features = torch.cat([self.embed(part, 1, 0 if i == update else None, running) for i, part in parts])
        # In bf16 the logits would keep three digits, too few for sharpening and for ranking by confidence.
        with torch.autocast(features.device.type, enabled=False):
            outputs: dict[str, Tensor] = {"features": features}
            if heads is None or "classes" in heads:
                outputs["classes"] = self.classify(features)
            if heads is None:
                return outputs["classes"]
            below = {head.on for head in self.heads if head.name in heads}
            for head in self.heads:
                if head.name in heads or head.name in below:
                    outputs[head.name] = getattr(self, head.name)(outputs[head.on or "features"])
            return {name: outputs[name] for name in heads}


def in_order(names: Sequence[str]) -> dict[str, int]:
    """Layers by the order of names: "layer1.0.conv1.weight" and "layer1.0.bn1.bias" are of one, "layer1.0"."""
    found: dict[str, int] = {}
    seen: dict[tuple[str, ...], int] = {}
    for name in names:
        parts = name.split(".")[:-1]
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        place = tuple(parts[: numbers[0] + 1 if numbers else 1])
        found[name] = seen.setdefault(place, len(seen))
    return found


def kernels(model: nn.Module) -> list[Tensor]:
    """The parameters that weight decay shrinks: convolution and dense weights, never biases or BatchNorm."""
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def _layers(head: Head, inputs: int, widths: Sequence[int]) -> nn.Module:
    """A head's linear layers, with ReLU between them; a single layer is that layer itself."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *widths)):
        linear = nn.Linear(before, after, bias=head.bias)
        if head.init == "xavier":
            nn.init.xavier_normal_(linear.weight)
            if head.bias:
                nn.init.zeros_(linear.bias)
        layers += [nn.ReLU(), linear] if layers else [linear]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
