"""Settings: what a run can be told, on a command line, from Python or by a run's own record.

run     the settings that every method shares, by component
values  types, limits and texts of any settings, a method's as well
build   presets, assignments and flags merged; what is left open filled in

Nothing here imports torch or reads a store's pixels.
"""

from trainer.config.build import build, load, names_of, papers_network, resolve, without_component
from trainer.config.run import FROM_FLAGS, Resolved, RunConfig, marked, without
from trainer.config.values import changed, check, parse, parse_size, types_of

__all__ = [
    "FROM_FLAGS",
    "Resolved",
    "RunConfig",
    "build",
    "changed",
    "check",
    "load",
    "marked",
    "names_of",
    "papers_network",
    "parse",
    "parse_size",
    "resolve",
    "types_of",
    "without",
    "without_component",
]
