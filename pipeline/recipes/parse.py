"""Reading the file of a recipe as plain data, with limits on bytes, values and nesting; nothing in it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from stores.errors import UsageError

LARGEST = 1 << 17  # bytes
MOST, DEEPEST = 20_000, 32  # values (with aliases followed) and nesting, far above what pipelines have


class _Loader(yaml.SafeLoader):
    """YAML without merge keys, a few of which can make a mapping grow exponentially while it is read."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.constructor.ConstructorError(None, None, "a recipe has no merge keys", node.start_mark)


def read(path: Path, hint: str) -> Any:
    """The values of a .json, .yaml or .yml file.

    Raises:
        UsageError: it cannot be read, is neither, or exceeds a limit.
    """
    kind = "json" if path.suffix.lower() == ".json" else "yaml"
    try:
        if not path.is_file():  # reading a pipe would hang
            raise UsageError(
                f"cannot read the recipe '{path}'", "it is not a file" if path.exists() else "it does not exist"
            )
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UsageError(f"the recipe '{path}' is too large", f"a recipe has at most {LARGEST:,} bytes", hint)
        text = data.decode("utf-8")
        parsed = json.loads(text) if kind == "json" else yaml.load(text, _Loader)  # noqa: S506 a SafeLoader
    except OSError as error:
        raise UsageError(f"cannot read the recipe '{path}'", error.strerror or "") from error
    except RecursionError:
        raise UsageError(f"the recipe '{path}' is nested too deeply", hint=hint) from None
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"the recipe '{path}' is not valid {kind}", str(error), hint) from error
    _check(path, parsed, hint)
    return parsed


def _check(path: Path, parsed: Any, hint: str) -> None:
    """Check number and nesting of the values; aliases of aliases are small only in the file."""
    waiting, met = [(parsed, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        met += 1
        if met > MOST or depth > DEEPEST:
            why = "it is nested too deeply" if depth > DEEPEST else f"it holds more than {MOST:,} values"
            raise UsageError(f"the recipe '{path}' is not a pipeline", why, hint)
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting.extend((one, depth + 1) for one in inner)
