"""The method contract: what a method declares, what the trainer supplies for it, and what it returns.

A method is a module (or any object) with `NAME`, `SUMMARY`, a frozen dataclass `Settings` whose fields are made by
`option`, and a function `loss`; the other functions of `Method` are optional. It works on tensors and settings alone:
it opens no store, owns no optimiser, device, process group or random generator. Its rows are those of the whole step,
however many processes share the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, overload

from networks.head import Head as Head
from stores.errors import UsageError

if TYPE_CHECKING:  # listing methods and their settings must not import torch
    import numpy as np
    from torch import Tensor

Kind = Literal["weak", "strong", "probe"]
Policy = Literal["randaugment", "uda", "ctaugment"]
WEAK: tuple[Kind, ...] = ("weak",)  # views are sums and multiples of these
STRONG: tuple[Kind, ...] = ("strong",)


# --- settings -------------------------------------------------------------------------------------------------------


class Options(Protocol):
    """A method's settings: a frozen dataclass whose fields are made by `option`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def option(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    **metadata: Any,
) -> Any:
    """Declare a setting: a dataclass field that `trainer.config.check` checks against its type and its limits.

    Args:
        default: the value unless a preset or the user says otherwise.
        help: one phrase for `realmix-train methods`.
        min: smallest value allowed.
        max: largest value allowed.
        above: the value must be greater than this.
        below: the value must be less than this.
        metadata: `from_store` says what replaces None, the default then, when the run is resolved: the name of an
            attribute of the split store, or a function of the split store. The field's type is the resolved value's.
    """
    limits = {"min": min, "max": max, "above": above, "below": below}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"help": help, **given, **metadata})


# --- what a method declares -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """What a method needs for one step.

    Attributes:
        labeled: the views of each labelled image.
        unlabeled: the views of each unlabelled sample, drawn independently from the same image or copy; () for none.
        second: the views of each sample of a second unlabelled stream, which draws from the images that are True in
            `state["second"]` (bool [N_u], from `init_state`; a hook may change it); () for none.
        source: whether unlabelled samples are images ("base") or stored copies of them ("copies").
        labeled_in_unlabeled: whether the labelled images are in the unlabelled set as well.
        ratio: unlabelled samples per labelled image (μ), in each stream.
        policy: what turns a weak view into a "strong" one. A "probe" is a weak view under CTAugment's uniform levels.
        cutout: whether CTAugment ends with CutOut, as RandAugment always does.
        cta_legacy: CTAugment translates by fractions of a pixel, as in the authors' code.
        heads: heads besides the classifier. Each must have a gradient in every step, multiplied by 0 if need be: CUDA
            graphs and DistributedDataParallel want all steps alike.
        teacher: whether the method uses the network with the averaged weights.
        one_graph: whether the loss can be compiled as a whole; False if it calls `torch.autograd.grad` (VAT).
        pixels: why the method cannot train on embeddings, and the setting that leaves this out; "" if it can.
    """

    labeled: tuple[Kind, ...] = ("weak",)
    unlabeled: tuple[Kind, ...] = ()
    second: tuple[Kind, ...] = ()
    source: Literal["base", "copies"] = "base"
    labeled_in_unlabeled: bool = False
    ratio: int = 1
    policy: Policy | None = None
    cutout: bool = False
    cta_legacy: bool = False
    heads: tuple[Head, ...] = ()
    teacher: bool = False
    one_graph: bool = True
    pixels: str = ""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a run.

    Attributes:
        labeled: labelled images in a step (B).
        unlabeled: unlabelled samples in a step (U = μB), before their views are counted; 0 if the method uses none.
        num_classes: K.
        image_size: height and width in pixels.
        num_unlabeled: length of the run's unlabelled index array (N_u).
        num_valid: number of validation images.
        num_features: of the embeddings that the network reads in the place of images; None: it reads images.
    """

    labeled: int
    unlabeled: int
    num_classes: int
    image_size: tuple[int, int] = (32, 32)
    num_unlabeled: int = 0
    num_valid: int = 0
    num_features: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of what the network reads: (3, H, W), or (D,) of an embedding."""
        return (3, *self.image_size) if self.num_features is None else (self.num_features,)


# --- what a step gets -----------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """The tensors of one step, on the training device. Images are float32 [n, 3, H, W] in [−1, 1].

    In a run on embeddings, [n, D] stands for each [n, 3, H, W]: standardised, each view from another copy of its image.

    Attributes:
        x: [B, 3, H, W], the first labelled view.
        y: int64 [B] in [0, K), the labels of `x`.
        u: one [U, 3, H, W] for each unlabelled view; row i of every view comes from the same sample.
        u_id: int64 [U], the position of each sample's image in the run's unlabelled index array, in [0, N_u). It is the
            same for every view and copy of an image and stable over shuffling, worker counts and resumption.
        second: one [U, 3, H, W] for each view of the second stream.
        second_id: int64 [U], as `u_id`, of the second stream's samples.
        probe: [B, 3, H, W], the labelled view of kind "probe"; None unless declared.
        draws: the arrays that `draw` returned; with a probe, also its "op" and "level".
        schedule: the values that `schedule` returned, as 0-dim float32 tensors.
        more_x: the labelled views after the first, without the probe.
    """

    x: Tensor
    y: Tensor
    u: tuple[Tensor, ...] = ()
    probe: Tensor | None = None
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    schedule: Mapping[str, Tensor] = field(default_factory=dict)
    u_id: Tensor | None = None
    second: tuple[Tensor, ...] = ()
    second_id: Tensor | None = None
    more_x: tuple[Tensor, ...] = ()


class Network(Protocol):
    """A network as methods call it. `networks.network.Network.forward` is the reference."""

    @overload
    def __call__(
        self, rows: Tensor, groups: int = 1, update: int | None = None, *, running: bool = False
    ) -> Tensor: ...

    @overload
    def __call__(
        self, rows: Tensor, groups: int = 1, update: int | None = None, *, running: bool = False, heads: Sequence[str]
    ) -> dict[str, Tensor]: ...

    def __call__(
        self,
        rows: Tensor,
        groups: int = 1,
        update: int | None = None,
        *,
        running: bool = False,
        heads: Sequence[str] | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Class logits [n, K] of images [n, 3, H, W]; with `heads`, the outputs of that name from the same pass.

        Args:
            rows: `groups` batches of equal size, one after the other.
            groups: BatchNorm normalises each batch by its own statistics.
            update: index of the batch that updates the running statistics; None: no batch does.
            running: normalise by the running statistics, as in evaluation.
            heads: any of "features" (pooled, [n, D]), "classes" (the class logits) and the declared heads' names.
        """


@dataclass
class Learner:
    """What a method trains.

    Attributes:
        model: the network with the current weights.
        teacher: the network with the averaged weights, as they were before this step. It has no gradients and never
            updates statistics; with `running=True` it is the model that is evaluated. None unless declared.
        state: the tensors that `init_state` returned. `loss` and `hook` change them in place; checkpoints contain them.
    """

    model: Network
    teacher: Network | None = None
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Losses:
    """What one step returns.

    Attributes:
        total: 0-dim, the value to minimise.
        metrics: 0-dim tensors to log; the trainer detaches them.
        keep_u: float [V·U], 1 for rows that the out-of-distribution mask keeps, all rows of the first view first; None
            for methods without such a mask.
    """

    total: Tensor
    metrics: dict[str, Tensor]
    keep_u: Tensor | None = None


@dataclass(frozen=True)
class Rejection:
    """What the heads of an open-set method say of n images.

    Attributes:
        score: float [n]; high means foreign.
        label: int64 [n] in [0, K]; K for images that are rejected as foreign.
    """

    score: Tensor
    label: Tensor


@dataclass(frozen=True)
class Examples:
    """What a method that is fitted at once gets: a run's plain samples as embeddings, standardised, on the host.

    Attributes:
        x: float32 [n, D], of the labelled images.
        y: int64 [n] in [0, K), their labels.
        unlabeled: reads those of the unlabelled images, float32 [m, D].
        num_classes: K.
        seed: of the run.
    """

    x: Tensor
    y: Tensor
    unlabeled: Callable[[], Tensor]
    num_classes: int
    seed: int


class Predictor(Protocol):
    """What a hook gets: the outputs of the averaged network, in evaluation mode, for plain images of the run.

    Attributes:
        step: updates done so far.
        steps: length of the run in updates.
        num_classes: K.
        frozen: whether the run is on embeddings: the features are these, not standardised, the same in every call.
        labels: int64 [n] in [0, K), classes of the labelled images, by position.
    """

    step: int
    steps: int
    num_classes: int
    frozen: bool

    @property
    def labels(self) -> np.ndarray: ...

    def labeled(self, *heads: str, most: int | None = None) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Outputs for the labelled images, a chunk at a time; see `unlabeled`. Positions are into the labelled set."""

    def valid(self, *heads: str) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Outputs for the validation images, a chunk at a time. Positions are into the validation set."""

    def unlabeled(
        self, *heads: str, most: int | None = None, without_labeled: bool = False
    ) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Outputs for the unlabelled images, a chunk at a time, in the order of the index array.

        Args:
            heads: names of outputs, as in `Network`.
            most: at most so many images, evenly spread, and no more than 128 MiB of pixels; None: all of them.
            without_labeled: leave out images that are labelled as well.

        Yields:
            positions: int64 [n] in the run's unlabelled index array.
            outputs: float32 [n, …] on the host, by name.
        """


# --- the method itself ----------------------------------------------------------------------------------------------


def _views(settings: Options) -> Views:
    return Views()


def _draw(rng: np.random.Generator, sizes: Sizes, settings: Options) -> dict[str, np.ndarray]:
    return {}


def _schedule(step: int, steps: int, num_classes: int, settings: Options) -> dict[str, float]:
    return {}


def _init_state(sizes: Sizes, settings: Options) -> dict[str, Tensor]:
    return {}


def _check(sizes: Sizes, settings: Options) -> None:
    pass


def _hook_every(steps: int, settings: Options) -> int | None:
    return None


def _loss(learner: Learner, batch: Batch, settings: Options) -> Losses:
    raise AssertionError("a method that is fitted at once makes no steps")


def _hook(predictor: Predictor, state: dict[str, Tensor], settings: Options) -> None:
    pass


@dataclass(eq=False)
class Method:
    """A method as the trainer uses it; `Method.of` makes it from a module.

    Attributes:
        NAME: how it is chosen.
        SUMMARY: one phrase for listings.
        Settings: a frozen dataclass of options.
        loss: `(learner, batch, settings) -> Losses`, one step's forward passes and losses. Exactly one forward pass of
            a step updates the running statistics.
        fit: `(examples, settings) -> tensors`, in the place of `loss` for a method that is fitted at once to
            embeddings: the weights of the network that NETWORK names. Such a run has one step.
        NETWORK: "linear" or "neighbours", what `fit` gives the weights of.
        PRESETS: settings by dataset family ("cifar10", or "any"); the entry "run" holds settings of the run.
        views: `(settings) -> Views`; default: labelled images alone, one weak view of each.
        draw: `(rng, sizes, settings) -> arrays`, the step's random numbers besides the views, on the host; their shapes
            and dtypes never change.
        schedule: `(step, steps, num_classes, settings) -> numbers`, such as ramps; the first step has number 0. In
            a run that was made longer `step` may be above `steps`: ramps stay where they ended.
        init_state: `(sizes, settings) -> tensors`, the method's own state before the first step, on the host.
        check: `(sizes, settings)`, raises UsageError if the method cannot train with these sizes.
        hook_every: `(steps, settings) -> int | None`, steps between two calls of `hook`; None: never. It is called
            after the last step as well.
        hook: `(predictor, state, settings)`, looks at many images with the averaged network and changes `state` in
            place. Process 0 runs it, the others receive its state.
        judge: `(outputs) -> Rejection`, which images are foreign, of a method whose heads can tell; `outputs` are those
            that HEADS names, [n, …] each.
        HEADS: outputs that `judge` reads, as in `Network`.
    """

    NAME: str
    SUMMARY: str
    Settings: type
    loss: Callable[[Learner, Batch, Options], Losses] = _loss
    fit: Callable[[Examples, Options], dict[str, Tensor]] | None = None
    NETWORK: str = "linear"
    PRESETS: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    views: Callable[[Options], Views] = _views
    draw: Callable[[np.random.Generator, Sizes, Options], dict[str, np.ndarray]] = _draw
    schedule: Callable[[int, int, int, Options], dict[str, float]] = _schedule
    init_state: Callable[[Sizes, Options], dict[str, Tensor]] = _init_state
    check: Callable[[Sizes, Options], None] = _check
    hook_every: Callable[[int, Options], int | None] = _hook_every
    hook: Callable[[Predictor, dict[str, Tensor], Options], None] = _hook
    judge: Callable[[Mapping[str, Tensor]], Rejection] | None = None
    HEADS: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: object) -> Method:
        """The method that a module, or any other object, defines.

        Raises:
            UsageError: something that every method must define is missing.
        """
        needed = ("NAME", "SUMMARY", "Settings", "fit" if hasattr(source, "fit") else "loss")
        missing = [name for name in needed if not hasattr(source, name)]
        if missing:
            raise UsageError(f"{source!r} is no method", f"it does not define {', '.join(missing)}")
        return cls(**{f.name: getattr(source, f.name) for f in fields(cls) if hasattr(source, f.name)})
