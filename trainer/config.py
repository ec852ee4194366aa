"""Settings of a run: method preset for the store's family < `--set key=value` < flags, typed, checked, then resolved.

A value of None means "auto": `resolve` fills it in once, at the start, and what it chose is recorded in the run's
config.json together with every deviation from the papers' values. Nothing here imports torch or reads a store's pixels.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from stores.errors import StoreError, UsageError, suggest

if TYPE_CHECKING:
    from trainer.contract import Method

PAPER_BN_MOMENTUM = 0.001
PAPER_EMA_DECAY = 0.999
PAPER_STEPS = 500_000
SHORT_RUN = 20_000


def _option(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class RunConfig:
    """What every method shares; the method's own hyper-parameters are its `Settings`. Units: steps, images, 1."""

    store: str = _option("", "split store that the run trains from")
    method: str = _option("realmix", "training method")
    model: str = _option("wrn-28-2", "network")
    steps: int = _option(PAPER_STEPS, "length of the run in updates", min=1)
    seed: int = _option(1, "of the initial weights, the order and every draw", min=0)
    batch: int = _option(64, "labelled images a step", min=2)
    optimizer: Literal["adam", "sgd"] = _option(
        "adam", "Adam with decoupled decay, or SGD with Nesterov momentum and L2"
    )
    lr: float = _option(0.002, "learning rate", above=0)
    lr_schedule: Literal["constant", "cosine"] = _option("constant", "cosine: lr·cos(7πk/16K), as FixMatch")
    momentum: float = _option(0.9, "of SGD", min=0, below=1)
    weight_decay: float = _option(0.02, "adam: kernels shrink by 1 − weight_decay·lr a step; sgd: L2 of the kernels",
                                  min=0)  # fmt: skip
    ema_decay: float | None = _option(None, "of the evaluated weights' average; None: 0.999, faster below 20,000 steps",
                                      min=0, below=1)  # fmt: skip
    bn_momentum: float | None = _option(None, "share of the new batch in BatchNorm's running statistics; None: 0.001, "
                                        "faster below 20,000 steps", above=0, max=1)  # fmt: skip
    precision: Literal["auto", "fp32", "bf16"] = _option("auto", "arithmetic of convolutions; losses stay in fp32")
    engine: Literal["auto", "eager", "compiled"] = _option(
        "auto", "compiled fuses the step's operations; takes a minute to start"
    )
    cuda_graph: bool = _option(True, "a compiled step on one GPU is recorded once and replayed")
    init: str | None = _option(None, "run or .safetensors file whose network is trained further, with new heads")
    copies: int | None = _option(None, "train on the first K stored copies; None: all", min=1)
    flip: bool | None = _option(None, "weak views flip horizontally, p = 1/2; None: as the store says")
    shift: int | None = _option(None, "largest shift of weak views in pixels; None: as the store says", min=0)
    eval_every: int | None = _option(None, "steps between evaluations; None: a 25th of the run, 100 to 1024", min=1)
    eval_raw: bool = _option(False, "evaluate the live weights beside the averaged ones each time, not only at the end")
    checkpoint_every: int | None = _option(None, "steps between checkpoints; None: as eval_every", min=1)
    log_every: int = _option(50, "steps between lines in metrics.jsonl", min=1)
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "where the network runs")
    feed: Literal["auto", "resident", "device", "host", "mapped", "stream"] = _option(
        "auto",
        "where the unlabelled images live: on the GPU, in memory, in a scratch file (resident: whichever of the "
        "three fits), or streamed from the store; resident homes have one order, a stream has another",
    )
    pool: Literal["auto", "stored", "drawn"] = _option(
        "auto",
        "drawn: copies are drawn from images when a batch is taken, the same pixels; auto: where the recipe allows",
    )
    window: str = _option("512MiB", "memory that a stream may take")
    scratch: str | None = _option(None, "folder of a mapped pool's file, gone after the run; None: the system's")
    threads: int | None = _option(None, "CPU threads of torch; None: torch's choice", min=1)
    tensorboard: bool = _option(True, "write TensorBoard events beside metrics.jsonl")
    wandb: bool = _option(False, "send curves and pictures to Weights & Biases too; needs the extra `wandb`")

    def __post_init__(self) -> None:
        parse_size(self.window)


FROM_FLAGS = ("store", "method")  # the settings' very meaning depends on these, so `--set` does not reach them


def build(
    method: Method, family: str | None, assignments: Sequence[str], flags: Mapping[str, Any]
) -> tuple[RunConfig, Any]:
    """Merge preset, `--set` assignments and flags (None = not given) into checked settings.

    Args:
        method: the method's module.
        family: dataset family that the store's manifest names ("cifar10"), for the preset.
        assignments: "key=value" strings, later ones win.
        flags: RunConfig fields from the command line.

    Returns:
        the run's configuration and the method's `Settings`.

    Raises:
        UsageError: an unknown key, a value of another type or out of range.
    """
    preset: dict[str, Any] = {}
    run_values: dict[str, Any] = {}
    for values in (method.PRESETS.get("any", {}), method.PRESETS.get(family or "", {})):
        preset |= {name: value for name, value in values.items() if name != "run"}
        run_values |= values.get("run", {})
    settings_values: dict[str, Any] = preset
    published = run_values.pop("ema_decay", 0.0)
    run_types, settings_types = types_of(RunConfig), types_of(method.Settings)
    assert not run_types.keys() & settings_types.keys(), f"{method.NAME} repeats a field of RunConfig"
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name, text = name.strip(), text.strip()
        if not equals:
            raise UsageError(f"'--set {assignment}' is no key=value")
        if name in FROM_FLAGS:
            raise UsageError(f"'{name}' cannot be set with --set", hint=f"use --{name}")
        if name in settings_types:
            settings_values[name] = parse(name, text, settings_types[name])
        elif name in run_types:
            run_values[name] = parse(name, text, run_types[name])
        else:
            known = [*settings_types, *(key for key in run_types if key not in FROM_FLAGS)]
            hint = f"`realmix-train methods {method.NAME}` lists the settings of {method.NAME}"
            raise UsageError(f"unknown setting '{name}'", suggest(name, known), hint)
    run_values |= {name: value for name, value in flags.items() if value is not None}
    if published and run_values.get("steps", RunConfig.steps) * (1 - published) >= 20:  # else automatic, see `resolve`
        run_values.setdefault("ema_decay", published)
    run, settings = RunConfig(**run_values), method.Settings(**settings_values)
    check(run)
    check(settings)
    return run, settings


def resolve(run: RunConfig, settings: Any, store: Any) -> tuple[RunConfig, Any, list[str]]:
    """Fill in every None that depends on the run's length or the store, and name the deviations from the papers.

    Below 20,000 steps the papers' averages (time constant 1,000 steps) would still hold the initial weights, so
    BatchNorm and EMA forget faster: within a twentieth of the run, at least 100 steps.
    """
    pace = min(0.01, max(PAPER_BN_MOMENTUM, 20 / run.steps))
    weak, eval_every = store.dataset.weak, run.eval_every or min(1024, max(100, run.steps // 25))
    resolved = dataclasses.replace(
        run,
        bn_momentum=pace if run.bn_momentum is None else run.bn_momentum,
        ema_decay=1 - pace if run.ema_decay is None else run.ema_decay,
        flip=bool(weak["flip"]) if run.flip is None else run.flip,
        shift=int(weak["shift"]) if run.shift is None else run.shift,
        eval_every=eval_every,
        checkpoint_every=run.checkpoint_every or eval_every,
    )
    assert resolved.shift is not None
    if resolved.shift >= min(store.dataset.image_size):
        side = min(store.dataset.image_size)
        raise UsageError(f"'shift={resolved.shift}' is out of range", f"the images are {side} pixels wide or high")
    deviations = []
    if run.steps < SHORT_RUN:
        for name, value, paper in (
            ("bn_momentum", resolved.bn_momentum, PAPER_BN_MOMENTUM),
            ("ema_decay", resolved.ema_decay, PAPER_EMA_DECAY),
        ):
            if value != paper and getattr(run, name) is None:
                deviations.append(f"{name} {value:g} instead of {paper:g}: the run is shorter than {SHORT_RUN:,} steps")
    unset = [
        f for f in dataclasses.fields(settings) if "from_store" in f.metadata and getattr(settings, f.name) is None
    ]
    settings = dataclasses.replace(settings, **{f.name: getattr(store, f.metadata["from_store"]) for f in unset})
    return resolved, settings, deviations


def load(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Settings of a run directory's config.json, as strictly checked as those of a command line.

    Raises:
        StoreError: another version wrote them, or someone changed them.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise StoreError(f"'{where}' has the unknown setting '{name}'", "another version of realmix wrote it")
    try:
        settings = cls(**values)
        check(settings)
    except (UsageError, TypeError) as error:  # TypeError: a comparison of a setting of another type
        raise StoreError(f"'{where}' has a setting that is not valid", str(error)) from None
    return settings


def changed(settings: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, in declaration order."""
    fields = dataclasses.fields(settings)
    return {f.name: getattr(settings, f.name) for f in fields if getattr(settings, f.name) != f.default}


def types_of(cls: type) -> dict[str, Any]:
    """Field name → type of a dataclass, annotations evaluated."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def parse(name: str, text: str, kind: Any) -> Any:
    """The value that `text` means for a field of type `kind`: bool, int, float, str, a Literal, or one of them or None.

    Raises:
        UsageError: it means none.
    """
    literals, kinds = _choices(kind)
    if text in literals:
        return text
    lower = text.lower()
    if type(None) in kinds and lower in ("none", "auto"):
        return None
    if bool in kinds and lower in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return lower in ("true", "yes", "on", "1")
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    if str in kinds:
        return text
    raise UsageError(f"'{name}={text}' is no valid setting", f"'{name}' takes {_describe(kind)}")


def parse_size(text: str) -> int:
    """Bytes that a size like "512MiB", "1.5 GB" or "1073741824" means.

    >>> parse_size("1GiB"), parse_size("0.5 kB")
    (1073741824, 500)

    Raises:
        UsageError: it means none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not found:
        raise UsageError(f"'{text}' is no size", hint="a size is a number of bytes, or like 512MiB or 2GB")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix or " "))


def check(settings: Any) -> None:
    """Types and ranges of every field; `metadata` may hold min, max (inclusive), above, below (exclusive).

    Raises:
        UsageError: naming the field, its value and what it takes.
    """
    kinds_of = types_of(type(settings))
    for f in dataclasses.fields(settings):
        value, (literals, kinds) = getattr(settings, f.name), _choices(kinds_of[f.name])
        if float in kinds and type(value) is int:
            value = float(value)
        typed = value in literals if literals and isinstance(value, str) else type(value) in kinds
        if not typed:
            raise UsageError(
                f"'{f.name}={value}' is no valid setting", f"'{f.name}' takes {_describe(kinds_of[f.name])}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limits = f.metadata
        if not (
            math.isfinite(value)
            and limits.get("min", -math.inf) <= value <= limits.get("max", math.inf)
            and limits.get("above", -math.inf) < value < limits.get("below", math.inf)
        ):
            words = {"min": "at least", "max": "at most", "above": "above", "below": "below"}
            bounds = " and ".join(f"{words[key]} {limits[key]}" for key in words if key in limits) or "finite"
            raise UsageError(f"'{f.name}={value}' is out of range", f"'{f.name}' must be {bounds}")


def _choices(kind: Any) -> tuple[tuple[str, ...], tuple[type, ...]]:
    """Literal values and plain types that `kind` admits."""
    if get_origin(kind) is Literal:
        return get_args(kind), ()
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    literals = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
    return literals, tuple(part for part in parts if get_origin(part) is not Literal)


def _describe(kind: Any) -> str:
    literals, kinds = _choices(kind)
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "none"}
    return " or ".join([*literals, *(names[part] for part in kinds)])
