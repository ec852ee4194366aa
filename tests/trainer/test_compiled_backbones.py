"""timm's networks below a loss, through the compiler's tracing and its autograd; the code that it writes is torch's."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from method_batches import SIZES, active, make_batch, make_learner
from rounding import assert_same
from torch import Tensor, nn

from networks.build import build_model

NETS = ["timm:test_convnext", "timm:test_vit", "timm:test_efficientnet"]


@pytest.mark.parametrize("name", NETS)
def test_a_compiled_loss_is_the_eager_one(name: str) -> None:
    """Loss, gradients and running statistics, in float64: as the engine compiles it, forward and backward."""
    chosen, settings = active("supervised")
    batch = make_batch(chosen, settings)
    build = partial(build_model, name, SIZES.num_classes, bn_momentum=0.1, size=32)
    plain, other = (make_learner(chosen, settings, build) for _ in range(2))
    other.model.joint = True
    compiled = torch.compile(chosen.loss, backend="aot_eager", fullgraph=True, dynamic=False)
    ours, theirs = compiled(other, batch, settings).total, chosen.loss(plain, batch, settings).total
    assert_same(ours, theirs)
    ours.backward()
    theirs.backward()
    for tensors in (gradients, statistics):  # together: a sum that BatchNorm cancels is rounding alone
        assert_same(tensors(other.model), tensors(plain.model))


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def statistics(model: nn.Module) -> Tensor:
    return torch.cat([torch.zeros(1), *(buffer.flatten() for buffer in model.buffers())])
