"""A `Spec` to what it is trained with: network, optimizer, batches, evaluator."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from networks.build import build_model
from networks.cost import outputs
from networks.embedded import linear
from networks.network import Network
from stores.errors import ResourceError, UsageError
from trainer import distributed, hardware
from trainer.config.fine_tuning import is_backbone
from trainer.data import memory
from trainer.data.embedded import EmbeddedSplit
from trainer.data.loader import Loader, sizes_of
from trainer.data.placement import unlabeled_rows
from trainer.ema import Ema
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictor import PoolPredictor
from trainer.loop import fitting, optimizer, prepare
from trainer.loop.parts import Parts
from trainer.runs import checkpoint, transfer
from trainer.runs.checkpoint import State
from trainer.runs.record import Spec
from trainer.runs.telemetry import Telemetry

FEW = 2048  # images of a step that fit into any memory
HELD = 2.5  # a step takes 2.5 to 2.9 times the memory of what convolutions give; compiled perhaps no more than that


def assemble(spec: Spec, path: Path | None = None) -> Parts:
    """Build model, optimizer, batches and evaluator of a run.

    Args:
        spec: the run.
        path: its directory, to go on from its checkpoint; None: a new run.

    Raises:
        StoreError, IntegrityError: the checkpoint is another run's, or damaged.
        UsageError, ResourceError: the batch cannot be made of this store, or does not fit into memory.
    """
    store, method, run = spec.store, spec.method, spec.run
    saved = None if path is None else checkpoint.read_own(path, spec.identity)  # before memory is taken for the rest
    device, declared = hardware.device(run), method.views(spec.settings)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: VAT's direction is a small difference of two predictions
    torch.manual_seed(run.seed)
    sizes = sizes_of(store, declared, run)
    method.check(sizes, spec.settings)
    _require_room(spec, device)
    new, started = path is None, time.perf_counter()
    model = _build(spec, run.weights if new and run.weights is not None else "none")
    fitted = 0.0 if method.fit is None else time.perf_counter() - started
    if spec.backbone is not None:
        transfer.load_into(model, spec.backbone, head=run.head == "kept")
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    if new and not isinstance(store, EmbeddedSplit):
        prepare.prepare(model, store, declared, run, device)
    own = {name: tensor.to(device) for name, tensor in method.init_state(sizes, spec.settings).items()}
    state = State(
        model, optimizer.build_optimizer(model, run), Ema(model, run.ema_decay), Telemetry(run.log_every), own
    )
    state.seconds = fitted
    if path is not None and saved is not None:
        checkpoint.restore(path, saved, state, run.steps, device)
        del saved
    loader = Loader(store, method, spec.settings, run, device, state.step, spec.placement)
    evaluator = Evaluator(store, model, device, run.precision == "bf16")
    predictor = None
    if method.hook_every(run.scheduled, spec.settings) and distributed.rank() == 0:
        predictor = PoolPredictor(store, unlabeled_rows(store, declared), evaluator, run.scheduled)
    return Parts(spec, device, state, loader, evaluator, predictor)


def require_trainable(spec: Spec) -> None:
    """Check what `assemble` would, without building or reading anything.

    Raises:
        UsageError: the method or the network cannot train with this batch or these images.
    """
    store, run, declared = spec.store, spec.run, spec.method.views(spec.settings)
    spec.method.check(sizes_of(store, declared, run), spec.settings)
    if spec.method.fit is not None:
        return
    with torch.device("meta"):
        _build(spec, "none")


def _require_room(spec: Spec, device: torch.device) -> None:
    """Refuse a batch whose step cannot fit into memory, before the system ends the process.

    Counted is what the convolutions of a wide network give, and what comes on top of it as measured.
    """
    run, views = spec.run, spec.method.views(spec.settings)
    sizes = sizes_of(spec.store, views, run)
    images = max(1, len(views.labeled)) * sizes.labeled + len(views.unlabeled) * sizes.unlabeled
    if images < FEW or isinstance(spec.store, EmbeddedSplit) or is_backbone(run.model):
        return
    with torch.device("meta"):
        each = outputs(_build(spec, "none"), sizes.image_size) * (2 if run.precision == "bf16" else 4)
    each = int(each * (HELD if run.engine == "eager" else 1))
    free = memory.free_memory(device)
    if images * each > memory.MARGIN * free:
        fits = max(2, 2 ** int(math.log2(max(2, run.batch * free / (2 * images * each)))))
        what = f"a step of {run.batch:,} labelled images takes at least {images * each / 2**30:,.1f} GiB"
        why = f"{images:,} images go through {run.model}, and {free / 2**30:,.1f} GiB are free"
        raise ResourceError(what, why, f"a smaller one: --batch {fits}")


def _build(spec: Spec, weights: str) -> Network:
    """The run's network as the first step finds it; of a method that is fitted at once, as its only step leaves it.

    Raises:
        UsageError: there is none of this name, or it cannot be trained on such a batch or such images.
    """
    run, store, method = spec.run, spec.store, spec.method
    heads = method.views(spec.settings).heads
    if isinstance(store, EmbeddedSplit):
        reader: linear.OnEmbeddings
        if method.fit is not None:
            reader = fitting.fit(store, method, spec.settings, run.seed)
        else:
            reader = linear.build(run.model, store.embeddings.num_features, store.num_classes, heads)
        for own, found in zip((reader.mean, reader.std), store.standard, strict=True):
            own.copy_(torch.from_numpy(found))
        return reader
    if run.model in linear.NAMES:
        raise UsageError(f"'{run.model}' reads embeddings", hint="--embeddings NAME, or another --model")
    options: dict[str, Any] = {"weights": weights, "size": run.input_size, "frozen": run.bn != "grouped"}
    model = build_model(run.model, store.num_classes, run.bn_momentum, heads, **options)
    model.check(run.batch, store.dataset.image_size)
    return model
