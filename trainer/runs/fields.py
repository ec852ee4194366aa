"""What every field of a run's files must be, as `stores.format.fields` says it of a store's manifest.

A run's folder may come from anywhere, and may have lain on a bad disk: what is read from its JSON later is checked here
first. Nothing here reads files, and nothing imports torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from stores.format.fields import (
    MOST,
    Check,
    digest,
    failed,
    interval,
    list_of,
    number,
    or_none,
    text,
    whole,
    with_fields,
)

LARGEST = 3.5e38  # what a float32 holds: losses, and everything that is computed from them
LARGEST_IMAGE = 64 << 20  # bytes of its pixels: stores hold none that is larger
_MODEL = re.compile(
    r"wrn-[0-9]{1,3}-[0-9]{1,3}|linear|mlp|neighbours"
    r"|(timm|torchvision):[a-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?"
)


def image_size(value: Any) -> bool:
    """[H, W], of no more pixels than a store holds."""
    return list_of(whole(1))(value) and len(value) == 2 and value[0] * value[1] * 3 <= LARGEST_IMAGE


def class_names(value: Any) -> bool:
    """A list of one name at least."""
    return list_of(text, 1)(value)


def model(value: Any) -> bool:
    """What looks like the name of a network; whether it is one says `networks.build`."""
    return isinstance(value, str) and _MODEL.fullmatch(value) is not None


def is_line(value: Any) -> bool:
    """Whether this is a record of metrics.jsonl."""
    own = _LINES.get(value["kind"]) if isinstance(value, dict) and isinstance(value.get("kind"), str) else None
    if own is None or not whole(0)(value.get("step")) or failed(value, own):
        return False
    return all(text(name) and (name == "kind" or _number(said)) for name, said in value.items())


def wrong_config(content: dict[str, Any]) -> list[str]:
    """Names of the fields of config.json that are missing or not what they must be."""
    return failed(content, _CONFIG)


def wrong_result(content: dict[str, Any]) -> list[str]:
    """Names of the fields of result.json that are missing, not what they must be, or contradict one another."""
    missing = [name for name in _RESULT.keys() - _LATER if name not in content]
    return missing or failed(content, _RESULT) or [name for name, fits in _FIT.items() if not fits(content)]


def wrong_weights(metadata: dict[str, Any]) -> list[str]:
    """Names of the fields that say which network a file of weights holds, its JSON parsed, that are not well."""
    return failed(
        metadata,
        {
            "model": model,
            "class_names": class_names,
            "image_size": image_size,
            "range": or_none(interval),
            "input_size": or_none(whole(1)),
            "embedding": or_none(_embedding),
        },
    )


def _path(value: Any) -> bool:
    """A path, which may hold any byte but 0: Python writes those that are no UTF-8 as halves of surrogate pairs."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _number(value) or _path(value)


def _object(checks: dict[str, Check]) -> Check:
    """With all of these fields, also those that may be None."""
    return lambda value: with_fields(checks)(value) and checks.keys() <= value.keys()


def _shares(value: Any) -> bool:
    """[low, high] in [0, 1]."""
    return list_of(_share)(value) and len(value) == 2 and value[0] <= value[1]


def _named(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(text(name) and check(said) for name, said in value.items())


_embedding = _object(
    {
        "backbone": text,
        "weights": text,
        "weights_sha256": lambda value: value == "" or digest(value),
        "size": whole(1, 1 << 12),
        "num_features": whole(1, 1 << 20),
    }
)
_number = number(-LARGEST, LARGEST)
_percent = number(0, 100)
_share = number(0, 1)
_QUALITY: dict[str, Check] = {"auroc": or_none(_share), "fpr95": or_none(_share)}
history = list_of(lambda entry: _named(_number)(entry) and whole(0)(entry.get("step")) and "test_error" in entry)
_LINES: dict[str, dict[str, Check]] = {
    "train": {"images_per_s": number(0, LARGEST)},
    "eval": {"test_error": _percent},
}
_CONFIG: dict[str, Check] = {
    "run": _named(_scalar),
    "settings": _named(_scalar),
    "run.store": _path,
    "run.method": text,
    "run.model": model,
    "run.steps": whole(1),
    "run.seed": whole(0, 1 << 64),
    "run.batch": whole(1),
    "run.precision": text,
    "run.engine": text,
    "run.init": or_none(_path),
    "command": or_none(list_of(_path)),
    "deviations": list_of(text),
    "init": or_none(with_fields({"path": _path, "sha256": digest})),
    "run.input_size": or_none(whole(1)),
    "backbone": or_none(with_fields({"name": model, "sha256": lambda value: value == "" or digest(value)})),
    "store.path": _path,
    **{f"store.{name}": text for name in ("name", "fingerprint", "dataset", "dataset_fingerprint", "protocol")},
    "store.split_seed": whole(0, 1 << 64),
    "store.class_names": class_names,
    "store.image_size": or_none(image_size),  # runs of early versions do not say it
    "store.embedding": or_none(_embedding),
    "store.gamma": or_none(_share),
    "store.range": or_none(interval),
    **{f"store.counts.{name}": whole(0) for name in ("labeled", "unlabeled", "valid", "test")},
    "store.num_copies": whole(0),
    "device.name": text,
    "device.kind": text,
    "device.threads": or_none(whole(0)),
    "versions": _named(text),
    "versions.realmix": text,
}
_RESULT: dict[str, Check] = {
    "method": text,
    "model": model,
    "seed": whole(0, 1 << 64),
    "steps": whole(1),
    "error_last": _percent,
    "error_median20": _percent,
    "median_of": whole(1),
    "error_best_by_valid": or_none(_percent),
    "best_step": or_none(whole(0)),
    "valid_error_last": or_none(_percent),
    "raw_error_last": or_none(_percent),
    "seconds": number(0, MOST),
    "store": _path,
    "store_fingerprint": text,
    "class_names": class_names,
    "per_class_error": _named(or_none(_percent)),
    "confusion": list_of(list_of(whole(0))),
    "ood": or_none(
        _object(
            {
                **dict.fromkeys(("masked_ood", "masked", "ood", "rows"), number(0, MOST)),
                "precision": or_none(_share),
                "recall": or_none(_share),
            }
        )
    ),
    "calibration": or_none(
        _object(
            {
                "ece": _share,
                "confidence": _share,
                "nll": _number,
                "bins": list_of(
                    _object({"count": whole(0), **dict.fromkeys(("confidence", "accuracy"), or_none(_share))}), 1
                ),
            }
        )
    ),
    "foreign": or_none(
        _object(
            {
                "share": or_none(_share),
                "interval": or_none(_shares),
                "images": whole(0),
                "features": text,
                "told": lambda value: isinstance(value, bool),
            }
        )
    ),
    "detection": or_none(
        lambda value: (
            _object(
                {
                    "auroc": or_none(_share),
                    "known": whole(0),
                    "foreign": whole(0),
                    "known_bins": list_of(whole(0), 1),
                    "foreign_bins": list_of(whole(0), 1),
                }
            )(value)
            and with_fields({"fpr95": or_none(_share), "confidence": or_none(_object(_QUALITY))})(value)
        )
    ),
    "open_set": or_none(
        _object(
            {
                "known": whole(1),
                "foreign": whole(1),
                "by": text,
                **_QUALITY,
                "default": or_none(_object(_QUALITY)),
                "rejects": or_none(text),
                "accuracy": or_none(_share),
                "balanced": or_none(_share),
            }
        )
    ),
    "history": history,
    "files": or_none(_named(_object({"bytes": whole(0), "sha256": digest}))),
}
# runs of early versions lack these
_LATER = {"raw_error_last", "valid_error_last", "calibration", "foreign", "detection", "open_set", "files"}
_FIT: dict[str, Check] = {
    "best_step": lambda c: (c["best_step"] is None) == (c["error_best_by_valid"] is None),
    "per_class_error": lambda c: c["per_class_error"].keys() == set(c["class_names"]),
    "confusion": lambda c: {len(c["class_names"])} == {len(c["confusion"]), *map(len, c["confusion"])},
    "ood": lambda c: (
        not c["ood"]
        or (
            c["ood"]["masked_ood"] <= min(c["ood"]["masked"], c["ood"]["ood"])
            and max(c["ood"]["masked"], c["ood"]["ood"]) <= c["ood"]["rows"]
        )
    ),
}


def contradiction(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a result says otherwise than the run's config: it is another run's; "" if nothing."""
    run, store = config["run"], config["store"]
    expected = {name: run[name] for name in ("method", "model", "seed", "steps")}
    expected |= {"store_fingerprint": store["fingerprint"], "class_names": store["class_names"]}
    return ", ".join(name for name, value in expected.items() if result[name] != value)
