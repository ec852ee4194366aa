"""Script of test_ffcv_export: exports a store, to be killed while it does. Usage: ffcv_export.py STORE."""

from __future__ import annotations

import sys

from pipeline.building.export_ffcv import export
from stores import open_store

if __name__ == "__main__":
    export(open_store(sys.argv[1]), lambda *_: None)
