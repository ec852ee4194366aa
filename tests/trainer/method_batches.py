"""One step's inputs for any method, made from what it declares, and networks to give it.

A new method needs a line in ACTIVE where its defaults would leave a part of it idle, and one in UPDATES where the rows
that move BatchNorm's running statistics are neither the labelled ones nor, with strong views, all rows together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from networks.build import build_model
from networks.network import Network
from trainer.augment import ctaugment
from trainer.contract import Batch, Learner, Method, Sizes
from trainer.ema import Ema
from trainer.methods import load_method

SIZES = Sizes(labeled=6, unlabeled=6, num_classes=4, image_size=(8, 8), num_unlabeled=50, num_valid=10)

# Every part at work at once, on a network without training: no ramps, masks that drop some rows and keep others.
ACTIVE: dict[str, dict[str, Any]] = {
    "pi_model": {"rampup_share": 0.0},
    "pseudo_label": {"rampup_share": 0.0, "threshold": 0.4},
    "vat": {"rampup_share": 0.0},
    "mean_teacher": {"rampup_share": 0.0},
    "ict": {"rampup_share": 0.0},
    "mixmatch": {"rampup_steps": 0},
    "realmix": {"rampup_steps": 0, "tsa": "none", "gamma": 0.2},
    "remixmatch": {"rampup_steps": 0, "strong_views": 2},
    "uda": {"threshold": 0.4},
    "fixmatch": {"threshold": 0.4},
    "uasd": {"gate_share": 0.0, "rampup_share": 0.0, "threshold": 0.5},
    "openmatch": {"warmup_share": 0.0, "threshold": 0.4},
    "iomatch": {"open_share": 0.0, "threshold": 0.3, "threshold_open": 0.3},
}

# What some steps would have left: without it nothing would count.
TRAINED: dict[str, Callable[[Learner], Any]] = {
    "uasd": lambda learner: learner.state["sums"].copy_(5 * torch.randn(learner.state["sums"].shape).softmax(1)),
    "iomatch": lambda learner: [parameter.mul_(-5) for parameter in named_parameters(learner, "detector")],
}

LABELED = {"remixmatch": 8}  # rows, where they are not six: rotations turn quarters of a batch


def active(name: str, **changes: Any) -> tuple[Any, Any]:
    """A method, and settings under which every part of it is at work."""
    method = load_method(name)
    return method, method.Settings(**ACTIVE.get(name, {}) | changes)


def as_method(method: Any) -> Method:
    """A method, also of its module."""
    return method if isinstance(method, Method) else Method.of(method)


def make_batch(
    method: Any,
    settings: Any,
    sizes: Sizes = SIZES,
    step: int = 5,
    steps: int = 10,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """Uniform noise for every view that the method declares, its draws and its schedule.

    In float64, as are the networks of `make_learner`: what is left of two computations' difference is no rounding.
    """
    method = as_method(method)
    declared = method.views(settings)
    if sizes.labeled == SIZES.labeled:
        sizes = dataclasses.replace(sizes, labeled=LABELED.get(method.NAME, sizes.labeled))
    unlabeled = sizes.labeled * declared.ratio if declared.unlabeled else 0
    sizes = dataclasses.replace(sizes, unlabeled=unlabeled)
    rng = np.random.default_rng(7)

    def images(rows: int) -> Tensor:
        return torch.from_numpy(rng.uniform(-1, 1, (rows, 3, *sizes.image_size))).to(dtype)

    def ids() -> Tensor | None:
        return torch.from_numpy(rng.integers(0, sizes.num_unlabeled, unlabeled)) if unlabeled else None

    labeled = [(kind, images(sizes.labeled)) for kind in declared.labeled]
    learnt = [rows for kind, rows in labeled if kind != "probe"]
    u = tuple(images(unlabeled) for _ in declared.unlabeled)
    y = torch.from_numpy(rng.integers(0, sizes.num_classes, sizes.labeled))
    drawn = method.draw(rng, sizes, settings)
    if "probe" in declared.labeled:
        drawn |= ctaugment.draw_probe(rng, sizes.labeled, sizes.image_size)
    ramps = method.schedule(step, steps, sizes.num_classes, settings)
    return Batch(
        x=learnt[0],
        y=y,
        u=u,
        probe=dict(labeled).get("probe"),
        draws={name: torch.from_numpy(array) for name, array in drawn.items()},
        schedule={name: torch.tensor(value, dtype=torch.float32) for name, value in ramps.items()},
        u_id=ids(),
        second=tuple(images(unlabeled) for _ in declared.second),
        second_id=ids() if declared.second else None,
        more_x=tuple(learnt[1:]),
    )


def make_learner(
    method: Any, settings: Any, build: Callable[[], nn.Module] | None = None, dtype: torch.dtype = torch.float64
) -> Learner:
    """A network without training and, where the method wants one, a teacher with other weights and its statistics.

    Always the same one; a small WRN, or what `build` gives.
    """
    torch.manual_seed(0)
    method = as_method(method)
    declared = method.views(settings)
    if build is None:
        build = partial(build_model, "wrn-10-1", SIZES.num_classes, bn_momentum=0.1, heads=declared.heads)
    model = build().to(dtype)
    average = Ema(model, 0.9)
    with torch.no_grad():
        for shadow in average.shadow:
            shadow.add_(0.1 * torch.randn_like(shadow))
    teacher = average.teacher() if declared.teacher else None
    learner = Learner(model, teacher, method.init_state(SIZES, settings))
    with torch.no_grad():
        TRAINED.get(method.NAME, lambda learner: None)(learner)
    return learner


def named_parameters(learner: Learner, head: str) -> list[Tensor]:
    """The parameters of a head; none of a network without it."""
    return [tensor for name, tensor in learner.model.named_parameters() if name.startswith(head)]


class Linear(nn.Module):
    """A network whose gradients can be written down: logits = 8·(Wx + b) of float64 images, sure of some of them."""

    def __init__(self, side: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(3 * side * side, SIZES.num_classes).double()
        with torch.no_grad():
            self.head.weight.mul_(8)

    def forward(self, rows: Tensor, groups: int = 1, update: int | None = None, **options: Any) -> Any:
        return named(self.head(rows.flatten(1)), **options)


def named(logits: Tensor, heads: Any = None, running: bool = False) -> Any:
    """What a network returns whose heads are multiples of its classes' logits [n, K], as many as each is wide."""
    classes = logits.shape[1]
    widths = {"detector": 2 * classes, "open": classes + 1}
    multiples = torch.cat([logits, -0.5 * logits], 1)
    return logits if heads is None else {name: multiples[:, : widths.get(name, classes)] for name in heads}


SMALL = dataclasses.replace(SIZES, image_size=(2, 2))  # of Linear's images


@dataclasses.dataclass
class Call:
    """One pass through a network: its rows, its arguments, and whether statistics moved in it."""

    rows: Tensor
    groups: int
    update: int | None
    differentiable: bool
    moved: bool


class Watched:
    """A network that remembers how it was called."""

    def __init__(self, network: Network) -> None:
        self.network, self.calls = network, list[Call]()

    def __call__(self, rows: Tensor, groups: int = 1, update: int | None = None, **options: Any) -> Any:
        before = [buffer.clone() for buffer in self.network.buffers()]
        found = self.network(rows, groups, update, **options)
        moved = not all(map(torch.equal, before, self.network.buffers()))
        outputs = [found] if isinstance(found, Tensor) else list(found.values())
        differentiable = any(output.requires_grad for output in outputs)
        self.calls.append(Call(rows.detach().clone(), groups, update, differentiable, moved))
        return found


def calls_of(method: Any, settings: Any) -> list[Call]:
    """How one step calls its network."""
    batch, learner = make_batch(method, settings), make_learner(method, settings)
    watched = learner.model = Watched(learner.model)
    method.loss(learner, batch, settings)
    return watched.calls


def blend(rows: Tensor, lam: Tensor, partner: Tensor) -> Tensor:
    """MixUp, written again."""
    lam = lam.view(-1, *[1] * (rows.dim() - 1))
    return lam * rows + (1 - lam) * rows[partner]


def interleaved_first_batch(batch: Batch) -> Tensor:
    """The first of MixMatch's three batches of six, written out: a third of each kind of mixed rows."""
    mixed = blend(torch.cat([batch.x, *batch.u]), batch.draws["lam"], batch.draws["partner"])
    return torch.cat([mixed[0:2], mixed[8:10], mixed[16:18]])


def interleaved_last_batch(batch: Batch) -> Tensor:
    """The last of ReMixMatch's four batches of eight, written out: six of its rows, and two labelled ones."""
    mixed = blend(torch.cat([batch.x, *batch.u]), batch.draws["lam"], batch.draws["partner"])
    return torch.cat([mixed[24:30], mixed[6:8]])


def all_rows(batch: Batch) -> Tensor:
    """Labelled and unlabelled rows of every view."""
    return torch.cat([batch.x, *batch.more_x, *batch.u])


# Which rows move the running statistics.
UPDATES: dict[str, Callable[[Batch], Tensor]] = {
    "mixup": lambda batch: blend(batch.x, batch.draws["lam_x"], torch.arange(5, -1, -1)),
    "mixmatch": interleaved_first_batch,
    "realmix": interleaved_first_batch,
    "remixmatch": interleaved_last_batch,
    "uasd": all_rows,
    "openmatch": all_rows,
}


def updating_rows(name: str, batch: Batch) -> Tensor:
    """The images that a method's step may show to BatchNorm's running statistics."""
    method = load_method(name)
    joint = "strong" in method.views(method.Settings()).unlabeled
    return UPDATES.get(name, all_rows if joint else lambda batch: batch.x)(batch)
