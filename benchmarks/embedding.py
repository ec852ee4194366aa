"""Embedding a store's copies against the bare forward pass of the same network, in one process and in turns.

The bare pass gets tensors that lie ready: resized, normalised, in channels-last order; the job reads or makes pictures,
embeds, compresses and writes them. Both use the same precision, batch and threads. Prints Markdown: pictures a second,
the ratio, and the ratio of processor time, which other work on the machine changes less.

    python benchmarks/embedding.py stores/flowers12 --backbone timm:tf_efficientnet_lite0 --size 160
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from rounds import say, spread

from pipeline.embedding.files import embed_files
from pipeline.embedding.frozen import Frozen, load_frozen
from pipeline.embedding.pictures import pictures_of
from stores import DatasetStore, open_store
from stores.embeddings import describe, layouts
from stores.format import layout
from stores.system import aside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--backbone", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--size", type=int)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=512, help="of one turn")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    layout.EMBEDDINGS_PER_FILE = options.pictures
    dataset = open_store(options.store)
    frozen = load_frozen(options.backbone, options.weights, options.size)
    turns: dict[str, list[tuple[float, float]]] = {"job": [], "bare": []}
    ready, pictures = inputs(dataset, frozen), options.pictures // options.copies * options.copies
    with tempfile.TemporaryDirectory() as folder:
        bare(frozen, ready, frozen.batch), job(dataset, frozen, options.copies, 0, Path(folder))
        for round_ in range(options.rounds):
            begin = partial(job, dataset, frozen, options.copies, round_, Path(folder))
            turns["job"].append(per_picture(begin, pictures))
            turns["bare"].append(per_picture(partial(bare, frozen, ready, pictures), pictures))
            say(f"round {round_ + 1}: " + ", ".join(f"{name} {1 / turns[name][-1][0]:.1f}/s" for name in turns))
    report(options, dataset, frozen, turns)


def per_picture(run, pictures: int) -> tuple[float, float]:
    """Seconds by the clock and of this process's processor time, for each picture."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - clock) / pictures, (time.process_time() - processor) / pictures


def inputs(dataset: DatasetStore, frozen: Frozen) -> torch.Tensor:
    """A batch as the network itself takes it: float32 [n, 3, size, size], normalised."""
    pixels = torch.from_numpy(dataset.train_images.read(range(min(frozen.batch, dataset.num_images))))
    with torch.inference_mode():
        images = frozen.images(pixels.to(frozen.device).permute(0, 3, 1, 2))
        return (images * frozen.backbone.scale + frozen.backbone.shift).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def bare(frozen: Frozen, ready: torch.Tensor, pictures: int) -> None:
    """The network alone on at least so many pictures."""
    last = None
    for start in range(0, pictures, frozen.batch):
        with torch.autocast(frozen.device, torch.bfloat16, enabled=frozen.precision == "bf16"):
            last = frozen.backbone.net(ready[: pictures - start])
    assert last is not None
    last.float().cpu()


def job(dataset: DatasetStore, frozen: Frozen, copies: int, index: int, folder: Path) -> None:
    """One file of copies: from the store to a file on the disk."""
    content = describe(
        dataset,
        frozen.network,
        copies=copies,
        strong=None,
        weak=dict(dataset.weak),
        precision=frozen.precision,
        batch=frozen.batch,
        versions={},
    )
    array = layouts(content)["copies"]
    full = array.shape[0] // array.file[0]

    def write(number: int, data: bytes) -> None:
        with aside.file(folder / str(number)) as out:
            out.write(data)

    pictures = pictures_of(dataset, content["spec"])["copies"]
    embed_files(frozen, array, pictures, dataset.image_size, [index % full], write)


def report(
    options: argparse.Namespace, dataset: DatasetStore, frozen: Frozen, turns: dict[str, list[tuple[float, float]]]
) -> None:
    how = f"{frozen.precision} on {frozen.device}, {torch.get_num_threads()} thread(s), batch {frozen.batch}"
    what = f"{dataset.name} ({dataset.image_size[0]} px), {frozen.network.backbone} at {frozen.network.size} px"
    print(f"{what}: {how}; {options.rounds} rounds of {options.pictures} pictures\n")
    print("| | pictures/s, median [min–max] | of the bare pass | of its processor time |\n|---|---|---|---|")
    clock, processor = ([b[i] / j[i] for j, b in zip(turns["job"], turns["bare"], strict=True)] for i in range(2))
    for name, ratios in (("job", (clock, processor)), ("bare", None)):
        cells = [spread(r, 2) for r in ratios] if ratios else ["1", "1"]
        print(f"| {name} | {spread((1 / c for c, _ in turns[name]), 1)} | {' | '.join(cells)} |")
    say(f"median ratio {statistics.median(clock):.3f}, of processor time {statistics.median(processor):.3f}")


if __name__ == "__main__":
    main()
