"""Is the Hugging Face hub there? Its client asks again and again for most of a minute before it says that it is not."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 3.0  # seconds to wait for an answer


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Where the hub does not answer, its client looks only at what was downloaded before, as with HF_HUB_OFFLINE=1."""
    try:
        from huggingface_hub import constants, utils
    except ModuleNotFoundError:  # timm says what it misses
        yield
        return
    if constants.HF_HUB_OFFLINE or answers(constants.ENDPOINT):
        yield
        return
    forget = getattr(utils, "reset_sessions", lambda: None)  # before 1.0 a session remembers whether it is offline
    try:
        constants.HF_HUB_OFFLINE = True
        forget()
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
        forget()


def answers(url: str) -> bool:
    """Whether a server says anything, an error too."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the hub's client may have other certificates
    except (OSError, http.client.HTTPException):
        return False
    return True
