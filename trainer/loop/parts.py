"""What a run is trained with: everything that `trainer.api.assemble` builds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.data.loader import Feed
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.mismatch_share import Sample
from trainer.runs.checkpoint import State
from trainer.runs.record import Spec


@dataclass
class Parts:
    """A run, built.

    Attributes:
        spec: what it was built from.
        device: of this process.
        state: networks, optimizer and all else that a step changes; as the checkpoint left it, of a resumed run.
        loader: the batches.
        evaluator: the held-out images.
        sample: the images that γ is estimated from, in the first process, where the method asks for it.
    """

    spec: Spec
    device: torch.device
    state: State
    loader: Feed
    evaluator: Evaluator
    sample: Sample | None
