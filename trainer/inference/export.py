"""A finished run as something to hand on: weights, on request an ONNX graph, and a model card that says what they are.

model.safetensors    averaged weights; names, classes and image size are in its metadata
foreign.safetensors  what scores images of no class, if the run has it
model.onnx           pixels to probabilities, for any ONNX runtime
README.md            the card: what it is, how to use it, how good it is, how it was made
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stores
from stores.errors import StoreError, UsageError
from stores.format import manifest
from stores.system import aside, durable
from stores.system.text import code, markdown
from trainer.config import without
from trainer.evaluation import scorer
from trainer.inference import onnx_graph
from trainer.inference.embedding import from_images
from trainer.runs import weights
from trainer.runs.run_dir import Run
from trainer.runs.weights import Trained

ONNX = "model.onnx"
CARD = "README.md"


def export(run: Run, folder: Path, onnx: bool, backbone: str | None = None) -> list[Path]:
    """Write the files into `folder`, which may hold an earlier export.

    Args:
        run: the run; of one on embeddings, the backbone and what was trained on it are written as one network.
        folder: to write to.
        onnx: write a graph, too.
        backbone: its weights, see `trainer.inference.embedding.from_images`.

    Returns:
        the files written.

    Raises:
        StoreError: the run is not finished.
        UsageError: the folder holds something else; a package is missing.
        RealMixError: the ONNX graph does not say what the network says.
    """
    result = run.result()
    if result is None:
        raise StoreError(
            f"'{run.path}' is not finished", "there is no result.json", f"`realmix-train --resume {run.path}`"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is no folder")
    aside.clear(folder / CARD)  # an export that was killed is not "something else"
    if folder.is_dir() and any(folder.iterdir()) and not (folder / weights.FILE).is_file():
        raise UsageError(f"'{folder}' holds something else", "an export would mix with it", "choose another -o")
    trained, found = from_images(weights.of_run(run), backbone), scorer.find(run.path)
    written = [folder / weights.FILE]
    graph, apart = b"", None
    if onnx:
        graph = onnx_graph.graph(trained)
        apart = onnx_graph.check(graph, trained)
    durable.make_folder(folder)
    with aside.turn(folder):  # two exports at once must not leave one's weights beside the other's card
        said = (trained.class_names, trained.image_size, trained.range, trained.made_with)
        (folder / scorer.FILE).unlink(missing_ok=True)  # an earlier export's would be of other weights
        weights.export(folder, trained.model, trained.name, *said)
        if found is not None:
            scorer.save(folder, found)
            written.append(folder / scorer.FILE)
        if onnx:
            manifest.write_atomically(folder / ONNX, graph)
            written.append(folder / ONNX)
        manifest.write_atomically(folder / CARD, card(trained, run, result, apart, found is not None).encode())
    return [*written, folder / CARD]


def card(trained: Trained, run: Run, result: Mapping[str, Any], apart: float | None, scored: bool) -> str:
    """The model card, Markdown.

    Args:
        apart: largest difference of an ONNX logit; None without an ONNX file.
        scored: `foreign.safetensors` is beside it.
    """
    config, store = run.config, run.config["store"]
    height, width = trained.image_size
    parameters = sum(p.numel() for p in trained.model.parameters())
    classes = "\n".join(f"{i}. {markdown(name)}" for i, name in enumerate(trained.class_names))
    counts, method = store["counts"], markdown(result["method"])
    sections = [
        f"# {method} on {markdown(store['name'])}",
        f"An image classifier for {len(trained.class_names)} classes: {markdown(trained.name)}, "
        f"{parameters:,} parameters, trained with realmix {markdown(config['versions']['realmix'])}, method {method}, "
        f"from a store with {counts['labeled']:,} labelled and {counts['unlabeled']:,} unlabelled images.",
        "## Use",
        f"Input: RGB images of {width}×{height} pixels, cropped to that aspect and resized with antialiasing. "
        "Output: one logit per class; softmax gives probabilities. " + (_SCORED if scored else _UNSCORED),
        _SAFETENSORS,
    ]
    if apart is not None:
        sections.append(_ONNX)
        sections.append(f"Checked with onnxruntime: no logit differs by more than {apart:.1g} from the network's.")
    sections += ["The outputs, in order:", classes, "## How good it is", _numbers(result), _per_class(result)]
    sections += ["## How it was made", _made(config, result)]
    return "\n\n".join(sections) + "\n"


_SCORED = (
    "With `foreign.safetensors` beside the weights, `ood_scores` say which images belong to no class: in [0, 1], high "
    "for those that lie, among the features of the training images, where no label is near."
)
_UNSCORED = (
    "Nothing here says which images belong to no class: 1 − the largest probability says how sure the network is, "
    "and can be no better than chance at that."
)

_SAFETENSORS = """With realmix, from files: `realmix-train predict FOLDER images/ --format csv`. From Python:

```python
import numpy as np
import realmix

model = realmix.load_model("model.safetensors")
images = np.zeros((1, *model.image_size, 3), np.uint8)  # RGB, 0–255; Pillow images and files, of any size, do as well
said = model.predict(images)
print(said.classes[0])  # also said.probabilities, said.ood_scores
```"""

_ONNX = """With any ONNX runtime, which scales the pixels itself:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
height, width = session.get_inputs()[0].shape[1:3]
images = np.zeros((1, height, width, 3), np.uint8)  # RGB, 0–255
logits, probabilities = session.run(None, {"images": images})
```

The graph has no score of images of no class; that takes `foreign.safetensors` and realmix."""


def _numbers(result: Mapping[str, Any]) -> str:
    """The table of the run's numbers."""
    calibration, detection = result.get("calibration"), result.get("detection")
    rows = [
        ("test error, last evaluation", f"{result['error_last']:.2f} %"),
        (f"test error, median of the last {result['median_of']} evaluations", f"{result['error_median20']:.2f} %"),
    ]
    if result["error_best_by_valid"] is not None:
        rows.append(
            (
                f"test error at the best validation error (step {result['best_step']:,})",
                f"{result['error_best_by_valid']:.2f} %",
            )
        )
    if calibration:
        rows.append(("expected calibration error (15 bins)", f"{100 * calibration['ece']:.2f} %"))
    if detection and detection["auroc"] is not None:
        what = "the score of foreign images" if "fpr95" in detection else "1 − confidence"
        rows.append((f"AUROC of {what}, on unlabelled images", f"{detection['auroc']:.3f}"))
    return "\n".join(["| measure | value |", "|---|---:|", *(f"| {what} | {value} |" for what, value in rows)])


def _per_class(result: Mapping[str, Any]) -> str:
    rows = [
        f"| {markdown(name)} | {'–' if error is None else f'{error:.1f} %'} |"
        for name, error in result["per_class_error"].items()
    ]
    return "\n".join(["| class | test error |", "|---|---:|", *rows])


def _pretrained(config: Mapping[str, Any]) -> list[str]:
    """The network that the run started from, by its checksum."""
    init, loaded = config.get("init"), config.get("backbone")
    if isinstance(init, dict):
        return [f"- starts from a trained network, SHA-256 {code(init['sha256'])}"]
    if isinstance(loaded, dict) and loaded["sha256"]:
        return [f"- starts from a pretrained network, SHA-256 of its tensors {code(loaded['sha256'])}"]
    return []


def _made(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Data, settings and versions."""
    store, settings = config["store"], {**without(config["run"], "place"), **config["settings"]}
    lines = [
        f"- data: split store {code(store['name'])}, fingerprint {code(store['fingerprint'])}, "
        f"protocol {markdown(store['protocol'])}, split seed {store['split_seed']}, of the dataset store "
        f"{code(store['dataset'])}, fingerprint {code(store['dataset_fingerprint'])}, "
        f"{store['num_copies']} copies of each image",
        f"- {result['steps']:,} steps in {result['seconds']:,.0f} s on {markdown(config['device']['name'])}",
        "- versions: " + ", ".join(markdown(f"{name} {version}") for name, version in config["versions"].items()),
        *(f"- differs from the paper: {markdown(text)}" for text in config["deviations"]),
        *_pretrained(config),
        "- settings: " + ", ".join(code(f"{name}={value}") for name, value in settings.items()),
        f"- exported by realmix {stores.__version__}",
    ]
    return "\n".join(lines)
