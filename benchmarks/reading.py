"""Shuffled reading: our feeds against FFCV, torch's DataLoader, WebDataset, MosaicML Streaming, zarr, and the limit.

Every contestant reads the same samples in batches, in a process of its own, in rounds. What it reads was written
before, in a cache folder. Measured: images/s over the epochs after the first, all files in the system's cache; the
time to the first batch ever, opening included and imports not, and of a later epoch; memory; and the shuffle. Prints a
Markdown table.

    python benchmarks/reading.py --images stores/cifar10      # base images of any dataset store, or an .npy file
    python benchmarks/reading.py --size 224 --copies 50       # synthetic photographs; --images also takes real ones
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rounds
import torch
from build import load
from jpeg_readers import JPEG_READERS
from readers import READERS as RAW_READERS
from readers import REFERENCE, Corpus, prepare_arrays

GROUP, RUN = 64, 4096  # samples in which siblings are counted; samples in a row in which different images are
LOOK, GROUPS = 5, 4096  # seconds, or groups of samples, of which the shuffle is measured
BYTES = 1e6
READERS = RAW_READERS | JPEG_READERS


def measure(name: str, corpus: Corpus, epochs: int) -> rounds.Result:
    """Read with one contestant here, in this process: one epoch to warm up, `epochs` timed, one to look at."""
    reader = READERS[name]
    for module in reader.needs:
        importlib.import_module(module)
    torch.set_num_threads(corpus.workers)
    shape = (corpus.batch, *corpus.mapped().shape[1:])
    began = time.perf_counter()
    epoch = reader.open(corpus)
    with contextlib.closing(epoch(0)) as batches:
        first_ever, _, _ = read(itertools.islice(batches, reader.batches), shape, began)
    firsts, rates, spent = [], [], []
    for number in range(1, epochs + 1):
        before = processor_time()
        with contextlib.closing(epoch(number)) as batches:
            first, seconds, count = read(itertools.islice(batches, reader.batches), shape)
            spent.append((processor_time() - before) / (count * corpus.batch))
        firsts.append(first)
        rates.append(count * corpus.batch / seconds)
    with contextlib.closing(epoch(epochs + 1)) as batches:
        rows, peak, anonymous = look(itertools.islice(batches, reader.batches))
    rate, count = statistics.median(rates), len(np.load(corpus.folder / "copies.npy", mmap_mode="r"))
    images = int(rows_of(reader.share, count // corpus.copies) * corpus.copies)
    return {
        "rate": rate,
        "spent": statistics.median(spent),
        "images": images,
        "bytes": sum(size(corpus.folder / name) for name in reader.files) / (images if reader.prepare else count),
        "first_ever": first_ever,
        "first_later": statistics.median(firsts),
        "peak": peak,
        "anonymous": anonymous,
        **shuffle(rows),
        "note": f"{rate:,.0f} images/s",
    }


def read(batches: Iterator[Any], shape: tuple[int, ...], began: float | None = None) -> tuple[float, float, int]:
    """Seconds to the first batch and to the end, and how many batches there were."""
    began = time.perf_counter() if began is None else began
    first, count = None, 0
    for images, _ in batches:
        first = time.perf_counter() - began if first is None else first
        assert images.shape == shape and str(images.dtype).endswith("uint8")
        count += 1
    assert first is not None, "fewer samples than a batch"
    return first, time.perf_counter() - began, count


def look(batches: Iterator[Any]) -> tuple[np.ndarray, float, float]:
    """The rows of some batches in a row, of a few seconds; and the memory in MB in the middle of an epoch."""
    rows, ends = [], time.perf_counter() + LOOK
    for images, of in batches:
        rows.append(np.array(of, np.int64))
        del images
        if len(rows) == 1:
            peak, anonymous = memory()
        if time.perf_counter() > ends or sum(map(len, rows)) > GROUPS * GROUP:
            break
    return np.concatenate(rows), peak, anonymous


def shuffle(rows: np.ndarray) -> dict[str, float]:
    """Pairs of copies of one image among 64 samples, mean; and different images among 4,096 samples in a row, mean."""

    def distinct(group: np.ndarray) -> np.ndarray:
        return np.unique(group, return_counts=True)[1]

    groups = [distinct(group) for group in np.split(rows, range(GROUP, len(rows), GROUP)) if len(group) == GROUP]
    long = [len(distinct(part)) for part in np.split(rows, range(RUN, len(rows), RUN)) if len(part) == RUN]
    pairs = [float((counts * (counts - 1) // 2).sum()) for counts in groups]
    return {"pairs": statistics.mean(pairs) if pairs else -1, "distinct": statistics.mean(long) if long else -1}


def uniform(samples: int, copies: int) -> tuple[float, float]:
    """What `shuffle` would find, on average, in a uniform shuffle."""
    pairs = GROUP * (GROUP - 1) / 2 * (copies - 1) / (samples - 1)
    return pairs, samples / copies * (1 - max(1 - RUN / samples, 0) ** copies)


def memory() -> tuple[float, float]:
    """MB of this process and those below it: the sum of their peaks, and anonymous memory, shared pages once."""
    mine = family()
    peak, anonymous = sum(int(lines.get("VmHWM", "0").split()[0]) for lines in mine.values()), 0
    for process in mine:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines())
            anonymous += sum(int(words[1]) for words in lines if words[0] == "Pss_Anon:")
    return peak * 1024 / BYTES, anonymous * 1024 / BYTES


def family() -> dict[int, dict[str, str]]:
    """What `/proc` says of this process and of those below it, by number."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[int(status.parent.name)] = dict(line.split(":", 1) for line in status.read_text().splitlines())
    mine = {int(Path("/proc/self").readlink().name)}
    while more := {process for process, lines in found.items() if int(lines["PPid"]) in mine} - mine:
        mine |= more
    return {process: found[process] for process in mine}


def processor_time() -> float:
    """CPU seconds of this process and of those below it, living or ended; whatever else the machine does."""
    ticks = 0
    for process in family():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, and those of children that ended
    return ticks / os.sysconf("SC_CLK_TCK")


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def rows_of(share: float, rows: int) -> int:
    """How many of the rows a contestant with this share gets; of few rows, all."""
    return min(rows, max(1000, int(share * rows)))


def prepare(name: str, corpus: Corpus) -> rounds.Result:
    """Write one contestant's files here, in this process, unless they are there."""
    reader = READERS[name]
    assert reader.prepare is not None
    began, done = time.perf_counter(), corpus.folder / f".{reader.prepare.__name__}"
    if not done.exists():
        reader.prepare(corpus, rows_of(reader.share, len(corpus.mapped()) // corpus.copies))
        done.touch()
    return {"seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="dataset store or .npy file; default: synthetic images")
    parser.add_argument("--size", type=int, default=32, help="side of the synthetic images")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each contestant")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of a round")
    parser.add_argument("--readers", nargs="+", default=[""], help="contestants, or parts of their names")
    parser.add_argument("--cache", type=Path, help="empty folder for the files that are read; default: temporary")
    parser.add_argument("--only", help="run one contestant once, from a prepared --cache, and print JSON")
    parser.add_argument("--prepare", help="write one contestant's files into a --cache that has the arrays")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-reading-")))
        corpus = Corpus(folder, options.copies, options.batch, options.workers)
        if options.only:
            print(json.dumps(measure(options.only, corpus, options.epochs)))
        elif options.prepare:
            print(json.dumps(prepare(options.prepare, corpus)))
        else:
            compare(corpus, options)


def compare(corpus: Corpus, options: argparse.Namespace) -> None:
    """Prepare everything, run the rounds, print the table."""
    names = [name for name in READERS if any(part in name for part in options.readers)]
    missing = {
        name: [m for m in READERS[name].needs if importlib.util.find_spec(m.split(".")[0]) is None] for name in names
    }
    for name, modules in missing.items():
        if modules:
            rounds.say(f"left out: {name}, which needs {', '.join(modules)} (`pip install realmix[bench]`)")
    names = [name for name in names if not missing[name]]
    if not (corpus.folder / "copies.npy").exists():
        prepare_arrays(load(options.images, options.size), corpus)
    words = ["--cache", str(corpus.folder), *rounds.words(options, "copies", "batch", "workers", "epochs")]
    for name in (name for name in names if READERS[name].prepare):
        rounds.say(f"prepared in {rounds.ask(__file__, ['--prepare', name, *words])['seconds']:.0f} s: {name}")
    results = rounds.run(__file__, names, options.rounds, words)
    shape = corpus.mapped().shape
    print(
        f"\n{rounds.machine(('torch', 'numpy', 'zarr', 'ffcv'))}. {shape[0]:,} samples of {shape[1:]}, "
        f"{options.copies} copies of each image, batch {options.batch}, {options.workers} workers, "
        f"{options.rounds} rounds of {options.epochs} epochs."
    )
    columns = [
        "",
        "samples",
        "images/s, median [min–max]",
        f"× {REFERENCE}",
        "CPU µs an image",
        "bytes a sample",
        "first batch ever, ms",
        "of a later epoch, ms",
        "peak RSS, MB",
        "anonymous, MB",
        f"sibling pairs in {GROUP} (uniform)",
        f"different images in {RUN:,} (uniform)",
    ]
    rounds.table(columns, (line(name, runs, results.get(REFERENCE), options.copies) for name, runs in results.items()))


def line(name: str, runs: list[rounds.Result], reference: list[rounds.Result] | None, copies: int) -> list[str]:
    """A contestant's row of the table."""
    pairs, distinct = uniform(runs[0]["images"], copies)

    def middle(key: str, scale: float = 1) -> float:
        return scale * statistics.median(run[key] for run in runs)

    return [
        name,
        f"{runs[0]['images']:,}",
        rounds.spread(run["rate"] for run in runs),
        rounds.ratio(runs, reference, "rate"),
        rounds.spread((1e6 * run["spent"] for run in runs), 1),
        f"{runs[0]['bytes']:,.0f}",
        rounds.spread((1000 * run["first_ever"] for run in runs), 1),
        rounds.spread((1000 * run["first_later"] for run in runs), 2),
        f"{max(run['peak'] for run in runs):,.0f}",
        f"{max(run['anonymous'] for run in runs):,.0f}",
        f"{middle('pairs'):.2f} ({pairs:.2f})",
        f"{middle('distinct'):,.0f} ({distinct:,.0f})" if middle("distinct") >= 0 else "–",
    ]


if __name__ == "__main__":
    main()
