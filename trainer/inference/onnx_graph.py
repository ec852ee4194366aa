"""A trained network as an ONNX file, node by node: pixels in, logits and probabilities out; and the check of one.

The graph takes uint8 RGB images as they are and scales them itself, so that nobody has to know how. It is written from
the network's modules, not traced: a few kilobytes of plain operators of opset 17 beside the weights, in milliseconds.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import stores
from stores.errors import RealMixError, UsageError
from trainer.augment.flip_shift import scale
from trainer.networks.wide_resnet import EPS, SLOPE, BatchNorm, Block, WideResNet
from trainer.runs.weights import Trained

OPSET, IR = 17, 8
CLOSE = 1e-4  # of the largest logit: what rounding in another order may change
HINT = "pip install 'realmix[onnx]'"


def graph(trained: Trained) -> bytes:
    """The serialized ONNX model: `images` uint8 [n, H, W, 3] to `logits` and `probabilities` float32 [n, K].

    Raises:
        UsageError: the package onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError:
        raise UsageError("an ONNX file needs the package onnx", "it is not installed", HINT) from None

    network, (height, width) = trained.model, trained.image_size
    assert isinstance(network, WideResNet)
    parts = _Parts()
    x = parts.add("Cast", ["images"], to=TensorProto.FLOAT)
    x = parts.add("Mul", [x, parts.weight("scale", np.float32(2 / 255))])
    x = parts.add("Sub", [x, parts.weight("one", np.float32(1))])
    x = parts.add("Transpose", [x], perm=[0, 3, 1, 2])
    x = _conv(parts, x, "stem", network.stem)
    for i, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        name = f"blocks.{i}"
        a = _activated(parts, x, f"{name}.bn1", block.bn1)
        h = _conv(parts, a, f"{name}.conv1", block.conv1)
        h = _conv(parts, _activated(parts, h, f"{name}.bn2", block.bn2), f"{name}.conv2", block.conv2)
        short = a if block.shared else x
        if isinstance(block.shortcut, nn.Conv2d):
            short = _conv(parts, short, f"{name}.shortcut", block.shortcut)
        x = parts.add("Add", [h, short])
    x = parts.add("GlobalAveragePool", [_activated(parts, x, "bn", network.bn)])
    x = parts.add("Flatten", [x])
    head = [parts.weight("head.weight", network.head.weight), parts.weight("head.bias", network.head.bias)]
    parts.add("Gemm", [x, *head], output="logits", transB=1)
    parts.add("Softmax", ["logits"], output="probabilities", axis=1)

    classes = len(trained.class_names)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", height, width, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes]) for name in ("logits", "probabilities")
    ]
    model = helper.make_model(
        helper.make_graph(parts.nodes, trained.name, [images], outputs, parts.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="realmix",
        producer_version=stores.__version__,
    )
    helper.set_model_props(model, {"model": trained.name, "class_names": json.dumps(trained.class_names)})
    return model.SerializeToString(deterministic=True)


def check(data: bytes, trained: Trained, rows: int = 16) -> float:
    """Hold the graph against the network on random images.

    Returns:
        the largest difference of a logit.

    Raises:
        UsageError: the package onnxruntime is not installed.
        RealMixError: they do not say the same.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("an ONNX file is checked with onnxruntime", "it is not installed", HINT) from None
    images = np.random.default_rng(0).integers(0, 256, (rows, *trained.image_size, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    logits, probs = session.run(["logits", "probabilities"], {"images": images})
    with torch.no_grad():
        expected = trained.model(scale(torch.from_numpy(images)))
    apart = float(np.abs(logits - expected.numpy()).max())
    apart_probs = float(np.abs(probs - expected.softmax(1).numpy()).max())
    limit = CLOSE * max(1.0, float(expected.abs().max()))
    if not (apart <= limit and apart_probs <= limit):
        raise RealMixError(
            "the ONNX graph does not say what the network says", f"logits differ by {apart:.2g}", "please report this"
        )
    return apart


class _Parts:
    """Nodes and weights of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """A node; the name of its output."""
        from onnx import helper

        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, value: Tensor | np.ndarray | np.floating[Any]) -> str:
        """A constant float32; its name."""
        from onnx import numpy_helper

        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32).reshape(array.shape), name))
        return name


def _conv(parts: _Parts, x: str, name: str, conv: nn.Conv2d) -> str:
    padding = int(conv.padding[0])
    return parts.add(
        "Conv",
        [x, parts.weight(f"{name}.weight", conv.weight)],
        strides=list(conv.stride),
        pads=[padding] * 4,
        kernel_shape=list(conv.kernel_size),
    )


def _activated(parts: _Parts, x: str, name: str, norm: BatchNorm) -> str:
    """BatchNorm by its running statistics, then LeakyReLU."""
    tensors = {"weight": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
    inputs = [x, *(parts.weight(f"{name}.{key}", value) for key, value in tensors.items())]
    return parts.add("LeakyRelu", [parts.add("BatchNormalization", inputs, epsilon=EPS)], alpha=SLOPE)
