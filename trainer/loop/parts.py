"""What a run is trained with: everything that `trainer.loop.assemble` builds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from networks.pretrained import Pretrained
from trainer.data.loader import Loader
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictor import PoolPredictor
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
        predictor: what the method's hook sees; in the first process, if the method has a hook.
    """

    spec: Spec
    device: torch.device
    state: State
    loader: Loader
    evaluator: Evaluator
    predictor: PoolPredictor | None

    def record(self) -> dict[str, Any]:
        """Content of config.json: what the run was built from, and which weights were loaded."""
        network = self.state.model
        loaded = network.backbone.describe() if isinstance(network, Pretrained) else None
        return self.spec.record() | {"backbone": loaded}
