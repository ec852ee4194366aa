"""A folder of somebody's work may have a `trainer.py` and a package `stores`: neither is taken for ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import realmix
from realmix import siblings

ROOT = Path(__file__).parents[1]
MINE = "print('mine')\nname = 'mine'\n"


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder with modules and packages of all of our names but `realmix`."""
    for name in siblings.PACKAGES:
        (tmp_path / f"{name}.py").write_text(MINE)
    (tmp_path / "stores.py").unlink()
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "__init__.py").write_text(MINE)
    return tmp_path


def python(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python as it is started in a folder: what lies there comes first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_every_package_that_is_shipped_is_claimed() -> None:
    import tomllib

    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*siblings.PACKAGES, "realmix"} == set(shipped["packages"])


def test_the_code_of_a_model_card_runs_there(crowded: Path, tiny: Path) -> None:
    flags = {"model": "wrn-10-1", "batch": 4, "device": "cpu", "threads": 1, "tensorboard": False}
    run = realmix.train(tiny.with_name("tiny_20"), "supervised", steps=1, runs=crowded / "runs", quiet=True, **flags)
    from trainer.inference.export import export
    from trainer.runs.run_dir import open_run

    export(open_run(run.path), crowded / "card", onnx=False)
    (code,) = re.findall(r"```python\n(.*?)```", (crowded / "card" / "README.md").read_text(), re.S)
    (crowded / "use.py").write_text(code.replace('"model.safetensors"', '"card/model.safetensors"'))
    done = python("use.py", folder=crowded)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in realmix.open_store(tiny).class_names


def test_what_was_imported_before_is_named_and_not_replaced(crowded: Path) -> None:
    done = python("-c", "import trainer\ntry: import realmix\nexcept ImportError as e: print(e)", folder=crowded)
    assert done.stdout.startswith("mine\n")
    assert re.search(r"trainer\.py' has been imported as 'trainer', and realmix has a package", done.stdout)


def test_the_command_of_a_run_is_ours(crowded: Path) -> None:
    """`reproduce` starts each run in a process of its own."""
    from trainer.reproduce.execute import interpreter

    for folder in (crowded, ROOT):
        done = python(*interpreter(folder), "-m", "trainer", "--version", folder=folder)
        assert done.stdout.startswith("realmix "), done.stderr
