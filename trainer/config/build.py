"""From presets, assignments and flags to a configuration, and from its open choices to a resolved one.

Later ones win: the method's preset for the store's family < `--set key=value` < flags. What None left open is filled in
once, at the start, and recorded in the run's config.json together with every deviation from the papers' values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stores.errors import StoreError, UsageError, suggest
from trainer.config import fine_tuning
from trainer.config.run import COMPONENTS, FROM_FLAGS, Resolved, RunConfig
from trainer.config.values import check, parse, types_of

if TYPE_CHECKING:
    from stores import SplitStore
    from trainer.contract import Method, Options

PAPER_BN_MOMENTUM = 0.001
PAPER_EMA_DECAY = 0.999
SHORT_RUN = 20_000
FOUR_GROUPS = 64  # pixels of a side from which a network has a fourth group of blocks, as the papers' for STL-10
ON_EMBEDDINGS = "embeddings"  # the family of every store that is read as embeddings
# What all methods share on embeddings; found by measuring, see docs/results/README.md.
EMBEDDED: dict[str, Any] = {
    "model": "linear",
    "steps": 1000,
    "optimizer": "adam",
    "lr": 0.002,
    "lr_schedule": "cosine",
    "weight_decay": 0.02,
    "precision": "fp32",
    "engine": "eager",
    "tensorboard": False,
    "threads": 1,
}
S = TypeVar("S", bound="Options")


def build(
    method: Method, family: str | None, assignments: Sequence[str], flags: Mapping[str, Any]
) -> tuple[RunConfig, Options]:
    """Merge preset, assignments and flags into checked settings.

    Args:
        method: the method's module.
        family: dataset family that the store's manifest names ("cifar10"), for the preset.
        assignments: "key=value" strings; a key is a setting's name, alone or after its component's: "lr", "optim.lr".
        flags: values by key, "store" and "method" among them; None: not given.

    Returns:
        the run's configuration and the method's `Settings`.

    Raises:
        UsageError: an unknown key, a value of another type or out of range.
    """
    twice = sorted(types_of(RunConfig).keys() & types_of(method.Settings).keys())
    if twice:
        raise UsageError(
            f"the method '{method.NAME}' declares the setting '{twice[0]}', which every run has",
            hint="give the method's setting another name",
        )
    kinds = types_of(RunConfig) | types_of(method.Settings)
    preset = _preset(method, family)
    published = preset.pop("ema_decay", 0.0)
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"'--set {assignment}' is no key=value")
        name = _name(method, key.strip())
        if name in FROM_FLAGS:
            raise UsageError(f"'{name}' cannot be set with --set", hint=f"use --{name}")
        values[name] = parse(name, text.strip(), kinds[name])
    values |= {_name(method, key): value for key, value in flags.items() if value is not None}
    values = preset | fine_tuning.preset(preset, values) | values
    if published and values.get("steps", RunConfig.steps) * (1 - published) >= 20:  # else left open, see `resolve`
        values.setdefault("ema_decay", published)
    own = types_of(method.Settings).keys()
    run = RunConfig(**{name: value for name, value in values.items() if name not in own})
    settings: Options = method.Settings(**{name: value for name, value in values.items() if name in own})
    check(run)
    check(settings)
    return run, settings


def _preset(method: Method, family: str | None) -> dict[str, Any]:
    """The method's values for a dataset family, the run's settings among them."""
    found: dict[str, Any] = {}
    common = {"run": EMBEDDED} if family == ON_EMBEDDINGS else {}
    for values in (method.PRESETS.get("any", {}), common, method.PRESETS.get(family or "", {})):
        found |= {name: value for name, value in values.items() if name != "run"} | values.get("run", {})
    return found


def _name(method: Method, key: str) -> str:
    """The field that a key means: "lr", "optim.lr", "alpha" or "realmix.alpha".

    Raises:
        UsageError: there is none.
    """
    own = types_of(method.Settings)
    component, dot, name = key.rpartition(".")
    parts: dict[str, type] = {**COMPONENTS, method.NAME: method.Settings}
    if dot and component in parts:
        known = list(types_of(parts[component]))
    else:
        name = key
        known = [*own, *types_of(RunConfig)]
    if name in known:
        return name
    hint = f"`realmix-train methods {method.NAME}` lists the settings of {method.NAME}"
    raise UsageError(f"unknown setting '{key}'", suggest(name, [k for k in known if k not in FROM_FLAGS]), hint)


def names_of(assignments: Sequence[str], flags: Mapping[str, Any]) -> set[str]:
    """Names of the settings that a user gave; as `build` takes them."""
    keys = [assignment.partition("=")[0].strip() for assignment in assignments]
    keys += [key for key, value in flags.items() if value is not None]
    return {key.rpartition(".")[2] for key in keys}


def without_component(assignment: str) -> str:
    """An assignment by the setting's own name: "optim.lr=0.1" as "lr=0.1"."""
    key, equals, text = assignment.partition("=")
    return key.rpartition(".")[2] + equals + text


def resolve(run: RunConfig, settings: S, store: SplitStore) -> tuple[Resolved, S, list[str]]:
    """Fill in every None that depends on the run's length or the store, and name the deviations from the papers.

    Below 20,000 steps the papers' averages (time constant 1,000 steps) would still hold the initial weights, so
    BatchNorm and EMA forget faster: within a twentieth of the run, at least 100 steps.

    Raises:
        UsageError: a shift as large as the images; a setting of pretrained networks for another one.
    """
    pace = min(0.01, max(PAPER_BN_MOMENTUM, 20 / run.steps))
    eval_every = run.eval_every or min(1024, max(100, run.steps // 25))
    chosen = {
        "model": papers_network(store.dataset.image_size),
        "bn_momentum": pace,
        "ema_decay": 1 - pace,
        "flip": bool(store.dataset.weak["flip"]),
        "shift": int(store.dataset.weak["shift"]),
        "eval_every": eval_every,
        "checkpoint_every": eval_every,
    }
    loaded = fine_tuning.is_backbone(run.model)
    if not loaded and (run.weights is not None or run.input_size is not None):
        name = "weights" if run.weights is not None else "input_size"
        why = f"{run.model or 'the network'} is none of timm's or torchvision's"
        raise UsageError(f"'{name}' is of a pretrained network", why, "--model timm:NAME")
    if loaded:
        chosen["weights"] = "pretrained" if run.init is None else "none"
        chosen |= fine_tuning.averages(run.steps)
        chosen["input_size"] = fine_tuning.input_size(store.dataset.image_size)
    if run.head == "auto":
        pretrained = loaded and (run.weights != "none" or run.init is not None)
        run = dataclasses.replace(run, head="imprinted" if pretrained else "random")
    given = dataclasses.asdict(run)
    open_ = {name for name in chosen if given[name] is None}
    resolved = Resolved(**{**given, **{name: chosen[name] for name in open_}})
    side = min(store.dataset.image_size)
    if resolved.shift >= side:
        raise UsageError(f"'shift={resolved.shift}' is out of range", f"the images are {side} pixels wide or high")
    deviations = [
        f"{name} {chosen[name]:g} instead of {paper:g}: the run is shorter than {SHORT_RUN:,} steps"
        for name, paper in (("bn_momentum", PAPER_BN_MOMENTUM), ("ema_decay", PAPER_EMA_DECAY))
        if name in open_ and run.steps < SHORT_RUN and chosen[name] != paper and not loaded
    ]
    return resolved, _filled_from(store, settings), deviations


def papers_network(size: tuple[int, int]) -> str:
    """The network that the papers train on images of this (height, width)."""
    return "wrn-37-2" if max(size) >= FOUR_GROUPS else "wrn-28-2"


def _filled_from(store: SplitStore, settings: S) -> S:
    """The settings with every None filled in that depends on the store, as its field's `from_store` says."""
    found = {}
    for f in dataclasses.fields(settings):
        source = f.metadata.get("from_store")
        if source is not None and getattr(settings, f.name) is None:
            found[f.name] = source(store) if callable(source) else getattr(store, source)
    return dataclasses.replace(settings, **found)


def load(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """Settings of a run directory's config.json, as strictly checked as those of a command line.

    Raises:
        StoreError: another version wrote them, or someone changed them.
    """
    known = types_of(cls)
    for name in values:
        if name not in known:
            raise StoreError(f"'{where}' has the unknown setting '{name}'", "another version of realmix wrote it")
    try:
        settings = cls(**values)
        check(settings, resolved=True)
    except (UsageError, TypeError) as error:  # TypeError: a comparison of a setting of another type
        raise StoreError(f"'{where}' has a setting that is not valid", str(error)) from None
    return settings
