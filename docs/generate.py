"""Pages that are made from the code when the site is built: methods, commands, the store's format, the changelog.

A hook of mkdocs; `pages()` gives the same pages by name, for the tests.
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import pipeline.cli
import trainer.cli
from trainer.config.run import COMPONENTS, FROM_FLAGS, Experiment
from trainer.methods import FITTED, METHODS, load_method

ROOT = Path(__file__).parents[1]
ORDER = ("Start", "How to", "Notebooks", "Methods", "Results", "Reference", "More")
NAMES = {  # of methods in the tables of results
    "supervised": "Supervised",
    "mixup": "MixUp",
    "pi_model": "Π-Model",
    "pseudo_label": "Pseudo-Label",
    "vat": "VAT",
    "mean_teacher": "Mean Teacher",
    "ict": "ICT",
    "mixmatch": "MixMatch",
    "realmix": "RealMix",
    "uda": "UDA",
    "fixmatch": "FixMatch",
    "remixmatch": "ReMixMatch",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of methods and of results, which nobody lists by hand."""
    tables = sorted(file.stem for file in (ROOT / "docs" / "results").glob("*.md") if file.stem != "README")
    config.nav += [
        {"Methods": ["methods/index.md", *({name: f"methods/{name}.md"} for name in METHODS | FITTED)]},
        {"Results": ["results/README.md", *({name: f"results/{name}.md"} for name in tables)]},
    ]
    config.nav.sort(key=lambda section: ORDER.index(next(iter(section))))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that are files."""
    for name, text in pages():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> Iterator[tuple[str, str]]:
    """Names and texts of all generated pages."""
    yield "reference/store-format.md", (ROOT / "stores" / "FORMAT.md").read_text()
    yield "changelog.md", (ROOT / "CHANGELOG.md").read_text()
    for name, app in (("realmix-data", pipeline.cli.app), ("realmix-train", trainer.cli.app)):
        yield f"reference/{name}.md", commands(name, app)
    for file in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        yield f"notebooks/{file.stem}.md", notebook(file)
    yield "methods/index.md", overview()
    for name in METHODS | FITTED:
        yield f"methods/{name}.md", method(name)


# --- methods --------------------------------------------------------------------------------------------------------


def overview() -> str:
    """All methods in a table, and the settings that they share."""
    rows = [(f"[{name}]({name}.md)", load_method(name).SUMMARY) for name in METHODS | FITTED]
    parts = ["# Methods", table(("method", "what it does with unlabelled images"), rows), "## Settings of every run"]
    for component, cls in {"": Experiment, **COMPONENTS}.items():
        parts += [
            f"### {component or 'experiment'}",
            table(("setting", "default", "meaning"), settings(cls, component)),
        ]
    return "\n\n".join(parts)


def method(name: str) -> str:
    """Idea, algorithm, settings, differences and numbers of a method, from its module."""
    chosen = load_method(name)
    module = inspect.getmodule(chosen.fit or chosen.loss)
    assert module is not None
    first, _, rest = (module.__doc__ or "").partition("\n")
    title, _, idea = first.partition(":")
    parts = [f"# {title.rstrip('.')}", idea.strip()[:1].upper() + idea.strip()[1:], prose(rest), "## The algorithm"]
    steps = [f for f in (chosen.loss, chosen.fit, chosen.hook) if f is not None and inspect.getmodule(f) is module]
    parts += [f"```python\n{inspect.getsource(f).rstrip()}\n```" for f in steps]
    parts += ["## Settings", f"`realmix-train --method {name} --set KEY=VALUE`"]
    parts.append(table(("setting", "default", "meaning"), settings(chosen.Settings, "")))
    presets = {family: ", ".join(assignments(values)) for family, values in chosen.PRESETS.items()}
    if presets:
        parts += ["Presets by family of data sets:", table(("family", "values"), list(presets.items()))]
    found = numbers(name)
    if found:
        parts += [
            "## Numbers",
            "Test error in %. What was trained for how long, and what differs: [results](../results/README.md).",
        ]
        parts.append(table(("table", "column", "error", "published"), found))
    return "\n\n".join(part for part in parts if part)


def settings(cls: Any, component: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each setting."""
    return [
        (f"`{field.name}`", "" if field.default is None else f"`{field.default}`", field.metadata.get("help", ""))
        for field in dataclasses.fields(cls)
        if component or field.name not in FROM_FLAGS
    ]


def assignments(values: dict[str, Any]) -> list[str]:
    """A preset as one would write it after --set."""
    flat = {key: value for key, value in values.items() if key != "run"} | values.get("run", {})
    return [f"`{key}={value}`" for key, value in flat.items()]


def numbers(name: str) -> list[tuple[str, str, str, str]]:
    """What the tables of docs/results say of a method."""
    found = []
    for file in sorted((ROOT / "docs" / "results").glob("*.csv")):
        for row in csv.DictReader(file.open()):
            if row.get("row") == NAMES.get(name, "") or row.get("method") == name:
                mean, std = (row.get(key) for key in (("mean", "std") if "mean" in row else ("error", "std")))
                error = f"{float(mean or 'nan'):.1f}" + (f" ± {float(std):.1f}" if std else "")
                column = row.get("column") or row.get("store") or ""
                found.append((f"[{file.stem}](../results/{file.stem}.md)", column, error, row.get("published", "")))
    return found


# --- commands -------------------------------------------------------------------------------------------------------


def commands(name: str, app: typer.Typer) -> str:
    """Every command with its arguments and options, as `--help` has them."""
    group = typer.main.get_command(app)
    root = group.make_context(name, [], resilient_parsing=True)
    parts = [f"# {name}", group.help or "", options(group, root)]
    for word in group.list_commands(root):  # type: ignore[attr-defined]
        command = group.get_command(root, word)  # type: ignore[attr-defined]
        context = command.make_context(word, [], parent=root, resilient_parsing=True)
        parts += [f"## {word}", f"`{command.get_usage(context).removeprefix('Usage: ')}`", command.help or ""]
        parts.append(options(command, context))
    return "\n\n".join(part for part in parts if part)


def options(command: Any, context: Any) -> str:
    """The table of a command's arguments and options."""
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            names, meaning = record
            rows.append((f"`{names}`", re.sub(r"\s+", " ", meaning)))
    return table(("option", "meaning"), rows)


# --- notebooks ------------------------------------------------------------------------------------------------------


def notebook(file: Path) -> str:
    """A script of cells, `# %%` and `# %% [markdown]`, as a page; editors and Jupyter open the script itself."""
    parts = []
    for cell in re.split(r"^# %%", file.read_text(), flags=re.MULTILINE)[1:]:
        kind, _, text = cell.partition("\n")
        if "markdown" in kind:
            parts.append(re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{text.strip()}\n```")
    source = (
        f"The cells of `docs/notebooks/{file.name}`, which Jupyter (with jupytext) and most editors open as a notebook."
    )
    return "\n\n".join([parts[0], source, *parts[1:]])


# --- text -----------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A docstring as Markdown: lists start after an empty line, and asterisks and angles are themselves."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith("- ") and lines and lines[-1] and not lines[-1].startswith(("- ", "  ")):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: list[Any]) -> str:
    """A Markdown table."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [" | ".join(row) for row in cells]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in head), *lines[1:]))
