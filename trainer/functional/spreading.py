"""Label spreading (Zhou et al. 2004) over a graph of nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from networks.embedded.linear import neighbours, unit

ROWS = 1024  # whose neighbours are found at a time
TOLERANCE, ROUNDS = 1e-6, 1000


def table(rows: Tensor, targets: Tensor, most: int, power: float) -> dict[str, Tensor]:
    """Weights of `networks.embedded.linear.Neighbours`: rows [m, D], scaled to length 1 here, and targets [m, K]."""
    numbers = {"nearest": torch.tensor(min(most, len(rows))), "power": torch.tensor(power)}
    return {"rows": unit(rows), "targets": targets, **numbers}


def spread(rows: Tensor, targets: Tensor, most: int, power: float, alpha: float) -> Tensor:
    """Label distributions of all rows: the limit of F ← α S F + (1 − α) Y, rows normalised.

    S = D^−½ W D^−½ of the symmetric graph in which each row is joined to its neighbours, without itself.

    Args:
        rows: float [n, D], of length 1.
        targets: Y, float [n, K]; 0 where no label is known.
        most: neighbours of a row.
        power: the graph's weights are cosines, negative ones 0, to this power.
        alpha: share of the neighbours in each round, in [0, 1).

    Returns:
        float [n, K]; uniform for rows that no label reaches.
    """
    count = len(rows)
    found = [neighbours(part, rows, most + 1, power) for part in rows.split(ROWS)]
    index, weight = (torch.cat(parts) for parts in zip(*found, strict=True))
    start = torch.arange(count).unsqueeze(1).expand_as(index)
    weight = torch.where(index == start, 0, weight)
    places = torch.stack([start.reshape(-1), index.reshape(-1)])
    graph = torch.sparse_coo_tensor(places, weight.reshape(-1), (count, count), check_invariants=False)
    graph = (graph + graph.t()).coalesce()
    (left, right), values = graph.indices(), graph.values()
    degree = torch.zeros(count, dtype=values.dtype).index_add_(0, left, values).clamp(min=1e-12)
    values = values / (degree[left] * degree[right]).sqrt()
    graph = torch.sparse_coo_tensor(graph.indices(), values, (count, count), is_coalesced=True, check_invariants=False)
    labels = targets
    for _ in range(ROUNDS):
        before, labels = labels, alpha * torch.sparse.mm(graph, labels) + (1 - alpha) * targets
        if (labels - before).abs().max() < TOLERANCE:
            break
    reached = labels.sum(1, keepdim=True)
    return torch.where(reached > 0, labels / reached.clamp(min=1e-30), 1 / targets.shape[1])
