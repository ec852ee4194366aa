"""The settings that every method shares, by component; the method's own hyper-parameters are its `Settings`.

A field is one setting, known by its own name (`lr`) and by its component's as well (`optim.lr`). Besides its help and
its limits, a field's metadata says what the setting means for a run that exists already:

    on_resume   it may differ when the run is resumed: it is no part of the run's identity
    place       it says where something lies; what lies there is compared by its fingerprint
    incidental  it changes how a run is executed or watched, and what it learns by no more than rounding or order
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainer.contract import option

Mark = Literal["on_resume", "place", "incidental"]
FROM_FLAGS = (
    "store",
    "embeddings",
    "method",
)  # what the other settings mean depends on these, so `--set` does not reach them


@dataclass(frozen=True)
class Experiment:
    """What is trained on what: flags of `realmix-train`. Units: steps, images."""

    store: str = option("", "split store that the run trains from", on_resume=True, place=True, incidental=True)
    embeddings: str | None = option(  # no part of a run's identity: the fingerprint of its store says which they are
        None, "embeddings beside the dataset store, to train on in place of its images", on_resume=True
    )
    method: str = option("realmix", "training method")
    model: str | None = option(
        None,
        "wrn-DEPTH-WIDTH, timm:NAME or torchvision:NAME; None: wrn-28-2, from 64 pixels a side on wrn-37-2; on "
        "embeddings linear (None) or mlp",
    )
    weights: Literal["pretrained", "none"] | str | None = option(
        None, "of a timm: or torchvision: network: pretrained (None), none, or a .safetensors or .pth file", place=True
    )
    input_size: int | None = option(
        None,
        "side in pixels to which such a network's images are resized; None: the images' own, from 96 to 224",
        min=8,
        max=4096,
    )
    steps: int = option(500_000, "length of the run in updates", min=1)
    schedule_steps: int | None = option(
        None, "length that schedules are made for; they stay where they end; None: that of the run", min=1
    )
    seed: int = option(1, "of the initial weights, the order and every draw", min=0)
    batch: int = option(64, "labelled images a step", min=2)
    init: str | None = option(None, "run or .safetensors file whose network is trained further; see head", place=True)


@dataclass(frozen=True)
class Optim:
    """The optimizer, and the averages that follow it."""

    optimizer: Literal["adam", "sgd"] = option(
        "adam", "Adam with decoupled decay, or SGD with Nesterov momentum and L2"
    )
    lr: float = option(0.002, "learning rate", above=0)
    lr_schedule: Literal["constant", "cosine"] = option("constant", "cosine: lr·cos(7πk/16K), as FixMatch")
    backbone_lr: float = option(1.0, "learning rate below the heads, times lr", min=0)
    layer_decay: float = option(
        1.0, "learning rate of each layer below the heads, times the next one's", above=0, max=1
    )
    warmup: int = option(0, "first steps, in which the learning rate grows to lr", min=0)
    head_first: int = option(0, "first steps, in which the heads alone are trained", min=0)
    head: Literal["auto", "random", "imprinted", "kept"] = option(
        "auto",
        "the classifier's first weights; imprinted: from the mean features of each class's labelled images; kept: "
        "those of init; auto: kept if the classes are the same, else imprinted in a pretrained network, else random",
    )
    momentum: float = option(0.9, "of SGD", min=0, below=1)
    weight_decay: float = option(
        0.02, "adam: kernels shrink by 1 − weight_decay·lr a step; sgd: L2 of the kernels", min=0
    )
    largest_decay: float | None = option(
        None, "most that a kernel below the heads shrinks in a step, as a share of itself; None: no limit", min=0
    )
    ema_decay: float | None = option(
        None, "of the evaluated weights' average; None: 0.999, faster below 20,000 steps", min=0, below=1
    )
    bn_momentum: float | None = option(
        None,
        "share of the new batch in BatchNorm's running statistics; None: 0.001, faster below 20,000 steps",
        above=0,
        max=1,
    )
    bn: Literal["grouped", "frozen", "adapted"] = option(
        "grouped",
        "BatchNorm: by the statistics of each batch; by the loaded ones; or by those of one pass over the images",
    )


@dataclass(frozen=True)
class Data:
    """The images: which copies, how the weak views move them, and where they are kept while training."""

    copies: int | None = option(None, "train on the first K stored copies; None: all", min=1)
    flip: bool | None = option(None, "weak views flip horizontally, p = 1/2; None: as the store says")
    shift: int | None = option(None, "largest shift of weak views in pixels; None: as the store says", min=0)
    feed: Literal["auto", "resident", "device", "host", "mapped", "stream"] = option(
        "auto",
        "where the unlabelled images live: on the GPU, in memory, in a scratch file (resident: whichever of the "
        "three fits), or streamed from the store; resident homes have one order, a stream has another",
        incidental=True,
    )
    pool: Literal["auto", "stored", "drawn"] = option(
        "auto",
        "drawn: copies are drawn from images when a batch is taken, the same pixels; auto: where the recipe allows",
        incidental=True,
    )
    window: str = option("512MiB", "memory that a stream may take", size=True, incidental=True)
    scratch: str | None = option(
        None, "folder of a mapped pool's file, gone after the run; None: the system's", place=True, incidental=True
    )


@dataclass(frozen=True)
class Hardware:
    """The machine, and the arithmetic that it does."""

    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "where the network runs", incidental=True)
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "arithmetic of convolutions; losses stay in fp32", incidental=True
    )
    engine: Literal["auto", "eager", "compiled"] = option(
        "auto", "compiled fuses the step's operations; takes a minute to start", incidental=True
    )
    cuda_graph: bool = option(
        True, "a compiled step on one GPU is recorded once and replayed", on_resume=True, incidental=True
    )
    threads: int | None = option(None, "CPU threads of torch; None: torch's choice", min=1, incidental=True)


@dataclass(frozen=True)
class Evaluation:
    """When the run is evaluated and saved."""

    eval_every: int | None = option(
        None, "steps between evaluations; None: a 25th of the run, 100 to 1024", min=1, incidental=True
    )
    eval_raw: bool = option(
        False, "evaluate the live weights beside the averaged ones each time, not only at the end", incidental=True
    )
    checkpoint_every: int | None = option(
        None, "steps between checkpoints; None: as eval_every", min=1, incidental=True
    )


@dataclass(frozen=True)
class Log:
    """Where the curves go."""

    log_every: int = option(50, "steps between lines in metrics.jsonl", min=1, incidental=True)
    tensorboard: bool = option(True, "write TensorBoard events beside metrics.jsonl", incidental=True)
    wandb: bool = option(
        False, "send curves and pictures to Weights & Biases too; needs the extra `wandb`", incidental=True
    )
    mlflow: bool = option(False, "send them to MLflow too; needs the extra `mlflow`", incidental=True)
    trackio: bool = option(False, "send them to Trackio too; needs the extra `trackio`", incidental=True)


COMPONENTS: dict[str, type] = {"optim": Optim, "data": Data, "hardware": Hardware, "eval": Evaluation, "log": Log}


@dataclass(frozen=True)
class RunConfig(Log, Evaluation, Hardware, Data, Optim, Experiment):
    """All components together. None and "auto" leave a choice open."""

    @property
    def scheduled(self) -> int:
        """Steps that schedules are made for: a run that was made longer keeps those it began with."""
        return self.schedule_steps or self.steps


class Resolved(RunConfig):
    """A configuration whose choices that depend on the store and on the length of the run are made: none is None."""

    model: str
    bn_momentum: float
    ema_decay: float
    flip: bool
    shift: int
    eval_every: int
    checkpoint_every: int


def marked(*marks: Mark) -> set[str]:
    """Names of the settings whose metadata has one of these marks."""
    return {f.name for f in dataclasses.fields(RunConfig) if any(f.metadata.get(mark) for mark in marks)}


def without(settings: Mapping[str, Any], *marks: Mark) -> dict[str, Any]:
    """These settings, by name, but for those that have one of these marks."""
    left_out = marked(*marks)
    return {name: value for name, value in settings.items() if name not in left_out}
