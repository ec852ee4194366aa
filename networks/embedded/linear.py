"""Networks on embeddings: a linear classifier, one with a hidden layer, and a table of neighbours.

They take standardised embeddings float32 [n, D] as other networks take images. `mean` and `std`, which the embeddings
were standardised with, are kept beside the weights, for whoever comes with embeddings as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from networks.head import Head
from networks.network import Network
from stores.errors import UsageError

HIDDEN = 512  # width of the layer of an mlp
TRAINED = ("linear", "mlp")
NAMES = (*TRAINED, "neighbours")
PARTS = ("mean", "std", "hidden", "head", "rows", "targets", "nearest", "power")  # of all of them, without other heads
TINY = 1e-6


class OnEmbeddings(Network):
    """A network that reads embeddings.

    Args:
        num_features: D.

    Attributes:
        num_classes: K.
    """

    mean: Tensor
    std: Tensor
    num_classes: int

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.joint = True  # nothing is normalised, so groups make no difference
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))


class Linear(OnEmbeddings):
    """A classifier on the embeddings or, with `hidden`, on a layer of so many features.

    The classifier and single layers of Xavier's initialisation start at 0: at first every class is as likely, and what
    they say of an image comes from the labels. Random weights of a thousand features would be noise that a few labels
    never take away.
    """

    def __init__(self, num_features: int, num_classes: int, heads: Sequence[Head] = (), hidden: int = 0) -> None:
        super().__init__(num_features)
        self.hidden = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.add_heads(hidden or num_features, num_classes, heads)
        nn.init.zeros_(self.head.weight)
        for head in heads:
            module = self.get_submodule(head.name)
            if head.init == "xavier" and isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
        self.num_classes = num_classes

    def embed(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        """Standardised embeddings [n, D] to the features that the heads read."""
        features: Tensor = self.hidden(x)
        return features.to(torch.promote_types(features.dtype, torch.float32))


class Neighbours(OnEmbeddings):
    """Logarithms of the votes of the nearest rows of a table.

    Args:
        tensors: rows float [m, D], of length 1; targets float [m, K], a distribution over the classes each; nearest [],
            how many rows vote; power [], their votes are weighted by the cosine to this power.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors["rows"].shape[1])
        self.num_classes = tensors["targets"].shape[1]
        self.rows = nn.Parameter(tensors["rows"].float())  # what saves and averages weights finds parameters
        self.targets = nn.Parameter(tensors["targets"].float())
        self.register_buffer("nearest", tensors["nearest"].float())
        self.register_buffer("power", tensors["power"].float())
        self.numbers = (
            int(tensors["nearest"]),
            float(tensors["power"]),
        )  # of the two buffers: constants of an ONNX graph

    @property
    def trains_features(self) -> bool:
        """Never: they are the embeddings."""
        return False

    def embed(self, x: Tensor, groups: int = 1, update: int | None = None, running: bool = False) -> Tensor:
        """The embeddings themselves."""
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Embeddings [n, D] to the logarithms of their votes' shares [n, K]."""
        index, weight = neighbours(unit(features), self.rows, *self.numbers)
        votes = (weight.unsqueeze(2) * self.targets[index]).sum(1) + TINY / self.targets.shape[1]
        logits: Tensor = (votes / votes.sum(1, keepdim=True)).log()
        return logits


def unit(rows: Tensor) -> Tensor:
    """Rows [n, D] scaled to length 1; zeros stay zeros."""
    length: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / length.clamp(min=1e-12)


def neighbours(rows: Tensor, table: Tensor, most: int, power: float) -> tuple[Tensor, Tensor]:
    """The nearest rows of a table by cosine.

    Args:
        rows: float [n, D], of length 1.
        table: float [m, D], of length 1.
        most: how many of them; all if there are fewer.
        power: weights are cosines, negative ones 0, to this power.

    Returns:
        int64 [n, k], the nearest first, and weights float [n, k].
    """
    cosine, index = (rows @ table.T).topk(min(most, len(table)), dim=1)
    return index, cosine.clamp(min=0) ** power


def build(name: str, num_features: int, num_classes: int, heads: Sequence[Head] = ()) -> OnEmbeddings:
    """A network that can be trained on embeddings.

    Args:
        name: "linear", or "mlp" with a hidden layer of 512 features.
        num_features: D.

    Raises:
        UsageError: no network on embeddings has this name.
    """
    if name not in TRAINED:
        raise UsageError(f"'{name}' does not read embeddings", hint="--model linear or --model mlp")
    return Linear(num_features, num_classes, heads, HIDDEN if name == "mlp" else 0)


def of_tensors(name: str, tensors: Mapping[str, Tensor], heads: Sequence[Head] = ()) -> OnEmbeddings:
    """A network on embeddings from its weights by name; statistics that are missing are 0 and 1.

    Args:
        heads: that the weights have besides the classifier.

    Raises:
        KeyError, RuntimeError: they are another network's.
    """
    if name == "neighbours":
        network: OnEmbeddings = Neighbours(tensors)
    else:
        first = tensors["hidden.0.weight" if name == "mlp" else "head.weight"]
        network = build(name, first.shape[1], len(tensors["head.bias"]), heads)
    network.load_state_dict({"mean": network.mean, "std": network.std, **tensors})
    return network
