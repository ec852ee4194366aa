"""A trained network as an ONNX file: pixels in, logits and probabilities out; and the check of one.

The graph takes uint8 RGB images as they are and scales them itself, so that nobody has to know how. torch's exporter
traces it, whatever the network is made of; that takes some ten seconds.
"""

from __future__ import annotations

import importlib.util
import json
import warnings

import numpy as np
import torch
from torch import Tensor, nn

import stores
from stores.errors import RealMixError, UsageError, install
from trainer.augment.flip_shift import scale
from trainer.runs.weights import Trained

OPSET = 18
CLOSE = 1e-4  # of the largest logit: what rounding in another order may change
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class FromPixels(nn.Module):
    """uint8 [n, H, W, 3] to logits and probabilities, float32 [n, K]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(scale(images))
        return logits, logits.softmax(1)


def graph(trained: Trained) -> bytes:
    """The serialized ONNX model: `images` uint8 [n, H, W, 3] to `logits` and `probabilities` float32 [n, K].

    Raises:
        UsageError: a package of the extra `onnx` is not installed.
        RealMixError: the network does something that ONNX has no operation for.
    """
    require()
    images = torch.zeros(2, *trained.image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            program = torch.onnx.export(
                FromPixels(trained.model).eval(),
                (images,),
                dynamo=True,
                dynamic_shapes=({0: "n"},),
                input_names=["images"],
                output_names=["logits", "probabilities"],
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            why = f"torch's exporter: {str(error.__cause__ or error).strip().splitlines()[0]:.200}"
            hint = "without --onnx, `realmix-train export` writes the weights and the card alone"
            raise RealMixError(f"'{trained.name}' cannot be written as an ONNX graph", why, hint) from None
    assert program is not None, "what the exporter returns with dynamo=True"
    model = program.model_proto
    model.producer_name, model.producer_version = "realmix", stores.__version__
    model.graph.name = trained.name
    # the exporter writes the stack trace of every node: this machine's folders are nobody's business
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, model.graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for key, value in {"model": trained.name, "class_names": json.dumps(trained.class_names)}.items():
        model.metadata_props.add(key=key, value=value)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def check(data: bytes, trained: Trained, rows: int = 16) -> float:
    """Hold the graph against the network on random images.

    Returns:
        the largest difference of a logit.

    Raises:
        UsageError: a package of the extra `onnx` is not installed.
        RealMixError: they do not say the same.
    """
    require()
    import onnxruntime

    images = np.random.default_rng(0).integers(0, 256, (rows, *trained.image_size, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    found = session.run(["logits", "probabilities"], {"images": images})
    with torch.no_grad():
        expected = FromPixels(trained.model)(torch.from_numpy(images))
    apart = [float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in zip(found, expected, strict=True)]
    if not max(apart) <= CLOSE * max(1.0, float(expected[0].abs().max())):
        raise RealMixError(
            "the ONNX graph does not say what the network says",
            f"logits differ by {apart[0]:.2g}",
            "please report this",
        )
    return apart[0]


def require() -> None:
    """Raises UsageError if a package of the extra `onnx` is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"an ONNX file needs the Python package '{missing[0]}'",
            "it is not installed",
            install("onnx"),
        )
