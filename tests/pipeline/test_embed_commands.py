"""`realmix-data embed` and `verify --deep` as a user runs them: killed, interrupted, without what they need."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_stores import build_stores

from stores.format import journal
from stores.verify import verify

ROOT = Path(__file__).parents[2]
NET = "timm:test_efficientnet"
OPTIONS = f"--backbone {NET} --weights none --size 16 --copies 3 --batch 50 --name net --device cpu".split()
SLOW = """
import time
from stores.format import journal, layout
layout.EMBEDDINGS_PER_FILE, plain = 120, journal.append
journal.append = lambda *given: (plain(*given), time.sleep(0.3))
from pipeline.cli import main
main()
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """The network is far too small for two."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def dataset_path(source, tmp_path_factory) -> Path:
    return build_stores(tmp_path_factory.mktemp("embedded"), source)


def run(*arguments: object, code: str = "from pipeline.cli import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


def test_killed_interrupted_continued_and_checked(dataset_path):
    command = [sys.executable, "-c", SLOW, "embed", str(dataset_path), *OPTIONS, "--quiet"]
    place = dataset_path.with_name("tiny.net")
    log = place / journal.NAME
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        before = log.stat().st_size if log.exists() else 0
        while not log.exists() or log.stat().st_size <= before:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code
    assert said == "error: interrupted\n→ run the same command again: it continues\n"
    done = run("embed", dataset_path, *OPTIONS, "--json", code=SLOW)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["embedded"] and facts["embeddings"] == 150 * 4 + 30 and facts["features"] == 256
    assert facts["store"] == str(place) and verify(place) == []

    done = run("verify", place, "--deep", "--quiet")
    assert done.stdout.startswith(f"{place}: sound, a sample is what the network makes"), done.stderr
    done = run("info", place)
    assert NET in done.stdout and done.returncode == 0


def test_the_command_says_what_is_missing(dataset_path, tmp_path):
    (tmp_path / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pipeline.cli import main; main()"
    done = run("embed", dataset_path, *OPTIONS, code=code)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install 'realmix[backbones]'" in done.stderr
