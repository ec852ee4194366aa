"""The house rules that a reviewer cannot see in one diff: who imports whom, what `--help` loads, what ships."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stores

ROOT = Path(__file__).parents[1]
PACKAGES = ("networks", "pipeline", "realmix", "stores", "trainer")


def imported_by(package: str) -> dict[str, set[str]]:
    """Top-level names that each file of a package imports, anywhere in it."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute"
                names.add((node.module or "").split(".")[0])
        found[str(file.relative_to(ROOT))] = names
    assert found, package
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("pipeline", {"realmix", "trainer"}),
        ("networks", {"realmix", "trainer", "pipeline"}),
        ("stores", {"networks", "realmix", "trainer", "pipeline", "torch", "torchvision", "albumentations"}),
        (
            "trainer",
            {"realmix", "pipeline", "albumentations", "torchvision", "PIL", "sklearn", "cv2", "scipy", "matplotlib"},
        ),
    ],
)
def test_packages_meet_only_in_stores(package, forbidden):
    crossing = {file: sorted(names & forbidden) for file, names in imported_by(package).items() if names & forbidden}
    assert crossing == {}


# From the bottom up: what stands higher imports what stands lower, never the reverse.
LAYERS = {
    "stores": [
        "system",
        "errors",
        "storage",
        "format",
        "ffcv",
        "images",
        "draws",
        "copies",
        "reader",
        "embeddings",
        "identity",
        "writer",
        "verify",
    ],
    "networks": [
        "hardware",
        "head",
        "layers",
        "network",
        "loading",
        "wide_resnet",
        "pretrained",
        "embedded",
        "build",
        "cost",
    ],
    "pipeline": [
        "recipes",
        "splits",
        "sources",
        "building",
        "embedding",
        "check",
        "api",
        "commands",
        "cli",
        "__main__",
    ],
    "trainer": [
        "functional",
        "contract",
        "config",
        "distributed",
        "hardware",
        "ema",
        "augment",
        "methods",
        "data",
        "runs",
        "evaluation",
        "report",
        "loop",
        "api",
        "inference",
        "reproduce",
        "compare",
        "commands",
        "cli",
        "__main__",
    ],
    "realmix": ["siblings", "training", "loading", "unlabeled"],
}
FILES_OF_A_PACKAGE, FILES_OF_A_FOLDER = 8, 14


def modules_imported(file: Path, package: str) -> set[str]:
    """Folders and top-level modules of a package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            found |= {f"{package}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.split(".")[1] for name in found if name.startswith(f"{package}.")}


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_down(package):
    rank = {name: i for i, name in enumerate(LAYERS[package])}
    upward = []
    for file in sorted((ROOT / package).rglob("*.py")):
        place = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if place == "__init__":
            continue
        assert place in rank, f"{file} is in no layer"
        imported = modules_imported(file, package) & rank.keys()
        upward += [f"{file.relative_to(ROOT)} imports {name}" for name in sorted(imported) if rank[name] > rank[place]]
    assert upward == []


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_is_seen_at_a_glance(package):
    sizes = {folder: len(list(folder.glob("*.py"))) for folder in {f.parent for f in (ROOT / package).rglob("*.py")}}
    assert sizes.pop(ROOT / package) <= FILES_OF_A_PACKAGE
    assert {str(folder): size for folder, size in sizes.items() if size > FILES_OF_A_FOLDER} == {}


PRIVATE = re.compile(r"_[a-z]\w*")
PUBLIC_ALL_THE_SAME = {"_exit", "_replace", "_asdict"}  # os._exit, and named tuples


def private_names(file: Path) -> list[str]:
    """Names with an underscore that a file takes from elsewhere: imported, read, or replaced by name."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            found += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            found.append(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")).endswith("attr"):
            found += [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
    return [name for name in map(str, found) if PRIVATE.fullmatch(name) and name not in PUBLIC_ALL_THE_SAME]


def test_tests_and_benchmarks_use_what_everybody_may_use():
    files = [file for folder in ("tests", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
    found = {str(file.relative_to(ROOT)): names for file in files if (names := private_names(file))}
    assert found == {}


@pytest.mark.parametrize("module", ["pipeline.cli", "trainer.cli"])
def test_help_loads_nothing_heavy(module):
    heavy = ["torch", "zarr", "torchvision", "albumentations", "cv2", "sklearn", "matplotlib"]
    code = (
        f"import sys, {module}\nsys.argv = ['x', '--help']\n"
        f"try: {module}.main()\nexcept SystemExit as e: assert not e.code\n"
        f"print('LOADED', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("module", ["pipeline.cli", "trainer.cli"])
def test_help_answers_in_a_second(module):
    """Of processor time, the best of three: whatever else the machine does."""
    code = f"import sys, {module}; sys.argv = ['x', '--help']; {module}.main()"
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 1


def test_an_eager_run_never_imports_the_compiler(tiny, tmp_path):
    """torch._dynamo takes longer to import than torch; optimizers of torch.optim import it."""
    command = ["--store", str(tiny.with_name("tiny_20")), "--model", "wrn-10-1", "--steps", "2", "--batch", "4"]
    command += ["--runs", str(tmp_path), "--name", "run", "--device", "cpu", "--engine", "eager", "--quiet"]
    code = (
        f"import sys, trainer.cli\nsys.argv = ['x', *{command!r}]\n"
        f"try: trainer.cli.main()\nexcept SystemExit as e: assert not e.code\n"
        f"print('LOADED', [m for m in ('torch._dynamo', 'torch._inductor', 'sympy', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
    assert (tmp_path / "run" / "result.json").is_file()


def test_the_wheel_holds_the_code_and_no_built_store(tmp_path):
    """Built in a copy of the tree that has a store in its default place."""
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.splitlines()
    tree = tmp_path / "tree"
    for name in (n for n in listed if (ROOT / n).is_file()):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    (tree / "stores/digits/copies").mkdir(parents=True)
    (tree / "stores/digits/copies/zarr.json").write_text("{}")
    (tree / "stores/digits/trap.py").write_text("")
    (tree / "stores/digits/system").mkdir()  # named as a folder of source
    (tree / "stores/digits/system/trap.py").write_text("")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    shipped = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    code = {n for n in listed if n.split("/")[0] in PACKAGES and n.endswith((".py", "py.typed"))}
    assert code, "the tree is a git checkout"
    assert code <= shipped
    assert "stores/FORMAT.md" in shipped
    assert not [n for n in shipped if n.startswith("stores/digits")]
    said = (
        zipfile.ZipFile(next(tmp_path.glob("*.whl"))).read(f"realmix-{stores.__version__}.dist-info/METADATA").decode()
    )
    assert "# realmix" in said
    assert re.findall(r"\]\((?!https?:)[^)]*\)", said) == [], "what leads nowhere on an index"
    assert {n.split("/")[0] for n in shipped} == {*PACKAGES, f"realmix-{stores.__version__}.dist-info"}


def test_the_citation_and_the_hooks_name_the_versions_that_are_used():
    assert f"version: {stores.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    pinned = re.search(r'"ruff==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert f"rev: v{pinned[1]}" in (ROOT / ".pre-commit-config.yaml").read_text()
