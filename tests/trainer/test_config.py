"""Settings: merging, parsing, ranges, and what "auto" becomes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.errors import StoreError, UsageError
from trainer import config
from trainer.config import Resolved, RunConfig
from trainer.contract import option
from trainer.methods import METHODS, load_method


@dataclass(frozen=True)
class Settings:
    alpha: float = field(default=0.75, metadata={"help": "a", "min": 0})
    gamma: float = field(default=None, metadata={"help": "g", "min": 0, "max": 1, "from_store": "gamma"})
    mode: Literal["none", "linear"] = field(default="none", metadata={"help": "m"})
    strict: bool = field(default=False, metadata={"help": "s"})
    ramp: int = field(default=16384, metadata={"help": "r"})


METHOD = SimpleNamespace(
    NAME="toy",
    Settings=Settings,
    PRESETS={"svhn": {"alpha": 0.25, "ramp": 7, "run": {"weight_decay": 0.002, "lr": 0.1}}},
)


def test_flags_win_over_set_and_set_over_the_preset_of_the_family():
    run, settings = config.build(METHOD, "svhn", ["ramp=8", "lr=.01", "steps=5"], {"steps": 9, "seed": None})
    assert (settings.alpha, settings.ramp) == (0.25, 8)
    assert (run.weight_decay, run.lr, run.steps, run.seed) == (0.002, 0.01, 9, 1)
    assert config.build(METHOD, "cifar10", [], {}) == (RunConfig(), Settings())


def test_the_preset_is_not_changed_by_a_run():
    before = {"alpha": 0.25, "ramp": 7, "run": {"weight_decay": 0.002, "lr": 0.1}}
    config.build(METHOD, "svhn", ["lr=.01", "ramp=9"], {})
    assert METHOD.PRESETS["svhn"] == before


def test_the_last_assignment_of_a_key_wins():
    assert config.build(METHOD, None, ["ramp=1", "ramp=2"], {})[1].ramp == 2


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("gama=.5", ["unknown setting 'gama'", "did you mean gamma?", "realmix-train methods toy"]),
        ("weight_decy=.5", ["did you mean weight_decay?"]),
        ("gamma", ["no key=value"]),
        ("method=supervised", ["--method"]),
        ("alpha=much", ["'alpha=much'", "a number"]),
        ("ramp=1.5", ["'ramp=1.5'", "an integer"]),
        ("strict=perhaps", ["'strict=perhaps'", "true or false"]),
        ("mode=cubic", ["'mode=cubic'", "none or linear"]),
        ("gamma=1.01", ["out of range", "at least 0 and at most 1"]),
        ("alpha=nan", ["out of range"]),
        ("alpha=inf", ["out of range"]),
        ("batch=1", ["'batch' must be at least 2"]),
        ("lr=0", ["'lr' must be above 0"]),
        ("ema_decay=1", ["'ema_decay' must be at least 0 and below 1"]),
        ("precision=fp16", ["auto or fp32 or bf16"]),
        ("eval_every=0", ["at least 1"]),
    ],
)
def test_a_wrong_assignment_is_refused_with_what_to_do(assignment, words):
    with pytest.raises(UsageError) as caught:
        config.build(METHOD, None, [assignment], {})
    for word in words:
        assert word in str(caught.value)


def test_a_setting_is_known_by_its_own_name_and_by_its_components():
    flat = config.build(METHOD, None, ["lr=.1", "eval_every=3", "alpha=.5"], {})
    assert config.build(METHOD, None, ["optim.lr=.1", "eval.eval_every=3", "toy.alpha=.5"], {}) == flat
    assert config.build(METHOD, None, [], {"optim.lr": 0.1, "eval_every": 3, "alpha": 0.5}) == flat
    assert config.build(METHOD, None, ["lr=.3", "optim.lr=.1"], {"eval_every": 3, "toy.alpha": 0.5}) == flat
    for key in ("optim.alpha", "optim.steps", "nothing.lr", "optim.", ".lr", "eval.store"):
        with pytest.raises(UsageError, match="unknown setting"):
            config.build(METHOD, None, [f"{key}=1"], {})


def test_a_setting_of_the_method_may_be_given_as_a_value_and_is_checked_as_a_text_is():
    assert config.build(METHOD, None, [], {"gamma": 0.5, "mode": "linear"})[1] == Settings(gamma=0.5, mode="linear")
    for flags in ({"gamma": 2}, {"gamma": "much"}, {"mode": "cubic"}, {"ramp": 1.5}, {"nothing": 1}):
        with pytest.raises(UsageError):
            config.build(METHOD, None, [], flags)


# config.json of a run of before settings had components
BEFORE = {
    "store": "stores/digits_100",
    "method": "realmix",
    "model": "wrn-10-1",
    "steps": 150,
    "seed": 1,
    "batch": 8,
    "optimizer": "adam",
    "lr": 0.002,
    "lr_schedule": "constant",
    "momentum": 0.9,
    "weight_decay": 0.02,
    "ema_decay": 0.99,
    "bn_momentum": 0.01,
    "precision": "fp32",
    "engine": "eager",
    "cuda_graph": False,
    "init": None,
    "copies": None,
    "flip": False,
    "shift": 1,
    "eval_every": 50,
    "eval_raw": False,
    "checkpoint_every": 50,
    "log_every": 50,
    "device": "cpu",
    "feed": "resident",
    "pool": "auto",
    "window": "512MiB",
    "scratch": None,
    "threads": 1,
    "tensorboard": True,
    "wandb": False,
}


def test_a_run_of_before_settings_had_components_is_the_same_run():
    loaded = dataclasses.asdict(config.load(Resolved, BEFORE, "config.json"))
    assert {name: value for name, value in loaded.items() if name in BEFORE} == BEFORE
    later = dataclasses.asdict(RunConfig())
    assert all(value == later[name] for name, value in loaded.items() if name not in BEFORE)
    assert BEFORE.keys() - config.without(BEFORE, "on_resume").keys() == {"store", "cuda_graph"}


def test_marks_say_what_a_setting_means_for_a_run_that_exists():
    assert config.marked("place") == {"store", "init", "scratch", "weights"}
    learnt = {"method", "model", "steps", "seed", "batch", "optimizer", "lr", "lr_schedule", "momentum"}
    learnt |= {"weight_decay", "ema_decay", "bn_momentum", "copies", "flip", "shift"}
    assert config.without(BEFORE, "place", "incidental").keys() == learnt


@pytest.mark.parametrize("flags", [{"steps": 0}, {"seed": -1}, {"device": "tpu"}, {"copies": 0}, {"threads": 0}])
def test_a_wrong_flag_is_refused(flags):
    with pytest.raises(UsageError):
        config.build(METHOD, None, [], flags)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("yes", bool, True),
        ("off", bool, False),
        ("0", bool, False),
        ("1_000", int, 1000),
        ("-3", int, -3),
        ("1e-3", float, 0.001),
        ("2", float, 2.0),
        ("none", float | None, None),
        ("auto", int | None, None),
        ("false", bool | None, False),
        ("none", Literal["none", "linear"], "none"),
        ("wrn-10-1", str, "wrn-10-1"),
    ],
)
def test_parse(text, kind, value):
    parsed = config.parse("key", text, kind)
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.integers() | st.floats(allow_nan=False))
def test_a_number_survives_its_text(number):
    assert config.parse("key", str(number), type(number)) == number


@pytest.mark.parametrize(
    ("steps", "pace"), [(500_000, 0.001), (20_000, 0.001), (4_000, 0.005), (2_000, 0.01), (1_000, 0.01), (20, 0.01)]
)
def test_short_runs_forget_faster_and_say_so(store, steps, pace):
    run, _, deviations = config.resolve(RunConfig(steps=steps), Settings(), store)
    assert run.bn_momentum == pytest.approx(pace)
    assert run.ema_decay == pytest.approx(1 - pace)
    assert len(deviations) == (2 if steps < 20_000 else 0)


def test_values_that_were_chosen_are_kept_and_are_no_deviation(store):
    asked = RunConfig(steps=100, bn_momentum=0.001, ema_decay=0.5, eval_every=7, checkpoint_every=3, flip=True, shift=0)
    run, settings, deviations = config.resolve(asked, Settings(gamma=0.5), store)
    assert dataclasses.asdict(run) == dataclasses.asdict(asked) | {"model": "wrn-28-2", "head": "random"}
    assert (settings, deviations) == (Settings(gamma=0.5), [])


@pytest.mark.parametrize(("steps", "every"), [(40, 100), (2_500, 100), (5_000, 200), (25_600, 1024), (500_000, 1024)])
def test_evaluations_are_about_25_a_run_and_at_most_1024_steps_apart(store, steps, every):
    run, _, _ = config.resolve(RunConfig(steps=steps), Settings(), store)
    assert (run.eval_every, run.checkpoint_every) == (every, every)


def test_the_store_gives_gamma_and_the_weak_augmentation(make_store):
    store = make_store(gamma=0.6)
    store.dataset.weak = {"flip": True, "shift": 4}
    run, settings, _ = config.resolve(RunConfig(), Settings(), store)
    assert (settings.gamma, run.flip, run.shift) == (0.6, True, 4)


def test_a_function_of_the_store_may_choose_a_setting_that_is_left_open(store):
    @dataclass(frozen=True)
    class Own:
        few: bool = option(None, "few labels", from_store=lambda split: len(split.labeled) < 10)

    assert config.resolve(RunConfig(), Own(), store)[1] == Own(few=True)
    assert config.resolve(RunConfig(), Own(few=False), store)[1] == Own(few=False)


@pytest.mark.parametrize(("size", "model"), [((32, 32), "wrn-28-2"), ((48, 63), "wrn-28-2"), ((96, 96), "wrn-37-2")])
def test_larger_images_get_the_network_with_a_fourth_group(store, size, model):
    store.dataset.image_size = size
    assert config.resolve(RunConfig(), Settings(), store)[0].model == model
    assert config.resolve(RunConfig(model="wrn-10-1"), Settings(), store)[0].model == "wrn-10-1"


def test_a_run_directory_leaves_nothing_open(store):
    _, settings, _ = config.resolve(RunConfig(), Settings(), store)
    recorded = dataclasses.asdict(settings)
    assert config.load(Settings, recorded, "config.json") == settings
    with pytest.raises(StoreError, match=r"config\.json"):
        config.load(Settings, recorded | {"gamma": None}, "config.json")


SIZES = {"1GiB": 1 << 30, "512MiB": 1 << 29, "1.5 gb": 1_500_000_000, "64k": 64_000, "4096": 4096, " 2 TiB ": 2 << 40}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_a_size_is_a_number_of_bytes(text, size):
    assert config.parse_size(text) == size
    config.check(RunConfig(window=text))


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1.GiB", "1 EiB", "1e9", "one", "1GiBs"])
def test_what_is_no_size_is_refused_wherever_it_stands(text):
    with pytest.raises(UsageError, match="is no size"):
        config.check(RunConfig(window=text))
    with pytest.raises(StoreError, match=r"config\.json"):
        config.load(RunConfig, {"window": text}, "config.json")


def test_a_shift_as_large_as_the_image_is_refused(store):
    config.resolve(RunConfig(shift=7), Settings(), store)
    with pytest.raises(UsageError, match="shift=8"):
        config.resolve(RunConfig(shift=8), Settings(), store)


def test_nothing_stays_automatic_but_what_the_hardware_decides(store):
    run, _, _ = config.resolve(RunConfig(), Settings(), store)
    left = [name for name, value in dataclasses.asdict(run).items() if value is None]
    homes = ["embeddings", "weights", "input_size"]
    assert left == [*homes, "schedule_steps", "init", "largest_decay", "copies", "scratch", "threads"]


def test_settings_come_back_from_a_run_directory_or_are_refused(store):
    run, _, _ = config.resolve(RunConfig(steps=3, flip=False), Settings(), store)
    assert config.load(Resolved, dataclasses.asdict(run), "config.json") == run
    wrong: list[dict[str, object]] = [{"stepz": 3}, {"steps": "3"}, {"steps": 0}, {"precision": "fp8"}, {"flip": 1}]
    for change in (*wrong, {"lr": None}, {"flip": None}, {"eval_every": None}):
        with pytest.raises(StoreError, match=r"config\.json"):
            config.load(Resolved, dataclasses.asdict(run) | change, "config.json")


def test_changed_lists_what_differs_from_the_defaults():
    assert config.changed(Settings()) == {}
    assert config.changed(Settings(alpha=0.5, gamma=0.0)) == {"alpha": 0.5, "gamma": 0.0}


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_help_a_valid_default_and_a_name_of_its_own(name):
    method = load_method(name)
    run_fields, fields = dataclasses.fields(RunConfig), dataclasses.fields(method.Settings)
    assert all(f.metadata.get("help") for f in (*run_fields, *fields))
    assert not {f.name for f in run_fields} & {f.name for f in fields}
    for family in (*method.PRESETS, None):
        config.build(method, family, [], {})


def test_none_is_a_network_without_weights_and_not_the_default() -> None:
    """As of `--weights`: a recipe's file and --set say the same."""
    name = {"method": "fixmatch", "model": "torchvision:resnet18"}
    for said, weights in (("none", "none"), ("auto", None), ("mine.pth", "mine.pth"), ("pretrained", "pretrained")):
        assert config.build(load_method("fixmatch"), None, [f"weights={said}"], name)[0].weights == weights
