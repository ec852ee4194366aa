"""`realmix-train`: train from a split store or continue a run; the commands beside that are in trainer/commands.

`--help` and `--version` import neither torch nor zarr: everything heavy is imported where it is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import stores
from stores import errors
from stores.errors import UsageError
from stores.system.command_line import CONTEXT, Command, Group, runs_here, shown, stores_here
from stores.system.text import say
from trainer.commands import audit, compare, completion, doctor, foreign, methods, reproduce, results
from trainer.commands.options import Debug, Device, Json


class _Train(Group):
    """The command line, which knows what people look for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            option = getattr(error, "option_name", None)
            if option is None or not hasattr(error, "possibilities"):
                raise
            known = [name for parameter in self.params for name in parameter.opts if name.startswith("--")]
            raise completion.explain(option, known) from None


app = typer.Typer(
    cls=_Train,
    context_settings=CONTEXT,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train from a split store that `realmix-data` built: any method, any seed.",
    epilog="Example: `realmix-train --store stores/cifar10_250 --method realmix --seed 1`",
)


def main() -> None:
    """Entry point of `realmix-train`."""
    errors.run(app)


def _version(asked: bool) -> None:
    if asked:
        say(f"realmix {stores.__version__}")
        raise typer.Exit


Store = Annotated[
    str | None,
    typer.Option(
        metavar="STORE",
        help="Split store to train from: a folder, or s3://bucket/….",
        show_default=False,
        autocompletion=stores_here,
    ),
]
Embeddings = Annotated[
    str | None, typer.Option(metavar="NAME", help="Train on these embeddings of its images.", show_default=False)
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Training method, see `methods`.",
        show_default="realmix",
        autocompletion=completion.methods,
    ),
]
Steps = Annotated[int | None, typer.Option(help="Updates.", show_default="500000; on a CPU minutes")]
Seed = Annotated[int | None, typer.Option(help="Of weights, order and draws.", show_default="1")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Network: wrn-28-2, timm:NAME, torchvision:NAME.",
        show_default="the papers'; on a CPU wrn-10-1",
        autocompletion=completion.networks,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Weights of a timm: or torchvision: model: a file, or none.", show_default="pretrained"
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="RUN", help="Start from this run's network, and its classes if they are the same.", show_default=False
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Folder of this run.", show_default="STORE_METHOD_sSEED")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, see `methods`; may be repeated.",
        autocompletion=completion.settings,
    ),
]
Copies = Annotated[int | None, typer.Option(help="Train on the first K stored copies.", show_default="all")]
Batch = Annotated[int | None, typer.Option(help="Labelled images a step.", show_default="64")]
Feed = Annotated[
    str | None,
    typer.Option(
        help="Home of the unlabelled images: auto, resident (device, host or mapped) or stream.", show_default="auto"
    ),
]
Window = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory that a stream may take, like 1GiB.", show_default="512MiB")
]
Engine = Annotated[str | None, typer.Option(help="auto, eager or compiled.", show_default="auto")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="torch's choice")]
EvalEvery = Annotated[int | None, typer.Option(help="Steps between evaluations.", show_default="100 to 1024")]
CheckpointEvery = Annotated[
    int | None, typer.Option(help="Steps between checkpoints.", show_default="as between evaluations")
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Continue this run, with its own settings; --steps makes it longer.",
        show_default=False,
        autocompletion=runs_here,
    ),
]
Wandb = Annotated[
    bool | None,
    typer.Option("--wandb", help="Send curves to Weights & Biases too (extra `wandb`).", show_default=False),
]
Mlflow = Annotated[
    bool | None, typer.Option("--mlflow", help="Send them to MLflow (extra `mlflow`).", show_default=False)
]
Trackio = Annotated[
    bool | None, typer.Option("--trackio", help="Send them to Trackio (extra `trackio`).", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only the last line.")]
Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)]


def train(
    context: typer.Context,
    store: Store = None,
    embeddings: Embeddings = None,
    method: Method = None,
    steps: Steps = None,
    seed: Seed = None,
    model: Model = None,
    weights: Weights = None,
    init: Init = None,
    runs: Runs = Path("runs"),
    name: Name = None,
    assignments: Set = None,
    copies: Copies = None,
    batch: Batch = None,
    device: Device = None,
    feed: Feed = None,
    window: Window = None,
    engine: Engine = None,
    threads: Threads = None,
    eval_every: EvalEvery = None,
    checkpoint_every: CheckpointEvery = None,
    wandb: Wandb = None,
    mlflow: Mlflow = None,
    trackio: Trackio = None,
    resume: Resume = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Train, or continue a run, where no command is named."""
    if context.invoked_subcommand is not None:
        return
    if resume is None and store is None:
        raise UsageError(
            "--store is missing", "a run trains from a split store", "`realmix-data build digits` makes some"
        )
    from trainer import config

    flags = {key: context.params[key] for key in config.types_of(config.RunConfig) if key in context.params}
    if resume is not None:
        kept = config.without(flags, "on_resume")
        given = [f"--{key.replace('_', '-')}" for key, value in kept.items() if value is not None and key != "steps"]
        given += ["--embeddings"] * (embeddings is not None)
        given += ["--set"] * bool(assignments) + ["--name"] * (name is not None)
        if given:
            raise UsageError(
                f"{', '.join(given)} cannot be given with --resume", "a run keeps the settings it started with"
            )
    from trainer import api
    from trainer.runs.console import last_line, show_result

    if resume is not None:
        path, result = api.resume(resume, store, quiet, steps)
    else:
        path, result = api.train(assignments or [], flags, runs, name, quiet)
    if not result:  # one of several processes, and not the one that writes
        return
    show_result(last_line(path, result), json.dumps({"run": str(path), **result}) if as_json else None)


PANELS = {
    "Network": ("weights", "init"),
    "Data": ("embeddings", "copies", "feed", "window"),
    "Machine": ("device", "engine", "threads"),
    "Evaluation and curves": ("eval_every", "checkpoint_every", "wandb", "mlflow", "trackio"),
    "Output": ("runs", "as_json", "quiet", "debug", "version"),
}
app.callback()(shown(train, {name: panel for panel, names in PANELS.items() for name in names}))
for command in (
    compare.compare,
    reproduce.reproduce,
    results.report,
    results.eval,
    results.predict,
    results.export,
    foreign.foreign,
    audit.audit,
    methods.methods,
    doctor.doctor,
):
    app.command(cls=Command)(shown(command))
