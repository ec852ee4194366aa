"""Every command and every piece of code of the README and the documentation, run on small stores page by page.

A block under `<!-- not run: REASON -->` is only parsed: its options, methods and settings must exist. Runs are made
short, nothing else is changed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer
from PIL import Image

import pipeline.cli
import trainer.cli
from trainer import config
from trainer.methods import LOADED, load_method

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "results" not in path.parts)
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REASONS = {
    "a download of weights",
    "a file of weights",
    "the weights of above",
    "a bucket",
    "a cluster",
    "several GPUs",
}
APPS = {"realmix-data": pipeline.cli, "realmix-train": trainer.cli}
ELSEWHERE = {"pip", "make", "dask", "aws"}  # not our commands
BUILDS_DIGITS = re.compile(r"build(\(\"| )digits(?![^\n]*name)")
STEPS = 3
PARTS = {"train": slice(60), "test": slice(60, 80)}  # of a stand-in for CIFAR-10


@dataclass(frozen=True)
class Block:
    """Text between fences; `why` it is not run, or None."""

    language: str
    text: str
    why: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line, without comments."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    return [Block(language, text, why or None) for why, language, text in BLOCK.findall(page.read_text())]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def ours(words: list[str]) -> list[str]:
    """A command from our program on; torchrun starts it too."""
    return words[words.index("realmix-train") :] if words[0] == "torchrun" else words


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_what_is_written_exists(page):
    for block in blocks_of(page):
        assert block.why is None or block.why in REASONS
        assert block.language in ("", "sh", "python", "text", "bibtex"), block.language
        if block.language == "python":
            compile(block.text, name(page), "exec")
        first = block.text.split(maxsplit=1)[0]
        if block.language == "sh" or first in {*APPS, "torchrun"}:
            for words in map(ours, block.commands):
                assert words[0] in {*APPS, *ELSEWHERE}, words
                if words[0] in APPS:
                    check(words)


def check(words: list[str]) -> None:
    """Parse a command as the program would, and its settings; raises what the program would complain about."""
    group, given = typer.main.get_command(APPS[words[0]].app), {}
    for command in (group, *group.commands.values()):
        command.callback = lambda **found: given.update(found)
    group.main(words[1:], standalone_mode=False)
    if words[0] == "realmix-train" and given.get("store") and "assignments" in given:
        config.build(load_method(given["method"] or "realmix"), None, given["assignments"] or [], {})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """What pages take for granted: folders of photographs, a CSV file, the digits."""
    import realmix

    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)

    def draw(path: Path, tone: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (40, 48, 3), dtype=np.uint8)
        pixels[..., tone] += 100
        Image.fromarray(pixels).save(path)

    for tone, kind in enumerate(("rose", "tulip")):
        for i in range(8):
            draw(folder / "photos" / "labelled" / kind / f"{i}.png", tone)
        for i in range(4):
            draw(folder / "photos" / "rest" / f"{kind}{i}.png", tone)
            draw(folder / "photos" / "test" / kind / f"{i}.png", tone)
    lines = ["file,label"]
    for i in range(24):
        draw(folder / "pictures" / f"day{i % 3}" / f"{i}.png", i % 2)
        lines.append(f"day{i % 3}/{i}.png,{('cat', 'dog')[i % 2] if i < 16 else ''}")
    (folder / "labels.csv").write_text("\n".join(lines))
    realmix.build("digits", root=folder / "stores", copies=2, labels="20")
    pixels = {"x": rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8), "y": np.arange(80) % 4}
    np.savez(
        folder / "small.npz",
        **{f"{kind}_{part}": values[rows] for kind, values in pixels.items() for part, rows in PARTS.items()},
    )
    realmix.build("arrays", folder / "small.npz", root=folder / "stores", name="cifar10", copies=2, labels="40")
    realmix.split(folder / "stores" / "cifar10", labels=8, name="cifar10_250")
    return folder


@pytest.fixture
def workplace(prepared, tmp_path, monkeypatch):
    """A folder of one's own with all of that, in which commands run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    known = dict(LOADED)
    for part in ("photos", "pictures", "labels.csv"):
        (tmp_path / part).symlink_to(prepared / part)
    yield tmp_path
    LOADED.clear()
    LOADED.update(known)


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with fewer steps."""
    words = list(words)
    if "--steps" in words:
        words[words.index("--steps") + 1] = str(STEPS)
    elif words[0] == "realmix-train" and "--store" in words:
        words += ["--steps", str(STEPS), "--batch", "8"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        APPS[words[0]].main()
    assert not left.value.code, shlex.join(words)


def shortened(code: str) -> str:
    return re.sub(r"steps=\d+", f"steps={STEPS}", code)


RUN = [
    page
    for page in (ROOT / "README.md", *PAGES)
    if any(b.why is None and b.language in ("sh", "python") for b in blocks_of(page))
]


@pytest.mark.parametrize("page", RUN, ids=name)
def test_pages_do_what_they_say(page, prepared, workplace, monkeypatch):
    found = blocks_of(page)
    shutil.copytree(prepared / "stores", workplace / "stores")
    if any(BUILDS_DIGITS.search(block.text) for block in found):
        for store in (workplace / "stores").glob("digits*"):
            shutil.rmtree(store)
    page_module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page_module)  # what is defined there says so
    for block in found:
        if block.why is None and block.language == "python":
            exec(compile(shortened(block.text), name(page), "exec"), vars(page_module))
        if block.why is None and block.language == "sh":
            for words in block.commands:
                if words[0] in APPS:
                    run(words, monkeypatch)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebooks_run(notebook, workplace):
    exec(compile(shortened(notebook.read_text()), name(notebook), "exec"), {})
