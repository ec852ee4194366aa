"""How long a run takes, said after its first steps."""

from __future__ import annotations

import torch

from networks.build import build_model
from networks.cost import multiplications
from trainer.config import RunConfig, papers_network
from trainer.config.fine_tuning import is_backbone
from trainer.data.embedded import EmbeddedSplit
from trainer.runs.console import duration
from trainer.runs.record import Spec

LONG_S = 86_400.0  # a run that takes longer than a day on a CPU is advised against


def estimate(spec: Spec, seconds: float) -> str:
    """The line about a run with so many seconds to go; on a CPU with how long the papers' would take."""
    run, said = spec.run, f"about {duration(seconds)} to go"
    if run.device != "cpu" or isinstance(spec.store, EmbeddedSplit):
        return said
    more = papers_multiple(spec)
    if more > 1:
        network = papers_network(spec.store.dataset.image_size)
        papers = f"{RunConfig.steps:,} steps of {RunConfig.batch} with {network}"
        return f"{said}; the papers' run, {papers}, would take about {duration(seconds * more)} on this machine"
    if seconds > LONG_S:
        return f"{said}. Ctrl-C stops it; without --steps and --model it ends in minutes on a CPU"
    return said


def papers_multiple(spec: Spec) -> float:
    """How many times as much the papers' run on these images would compute; 0 beside a pretrained network's."""
    run, size, classes = spec.run, spec.store.dataset.image_size, spec.store.num_classes
    if is_backbone(run.model):
        return 0.0
    with torch.device("meta"):
        own, papers = (multiplications(build_model(name, classes), size) for name in (run.model, papers_network(size)))
    return papers / own * (RunConfig.steps * RunConfig.batch) / (run.steps * run.batch)
