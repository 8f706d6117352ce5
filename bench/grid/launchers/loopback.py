"""A Ray cluster of this machine alone: it listens where this machine alone can call, and wants a token of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from ipaddress import ip_address

# Ray makes clusters of one machine where it expects firewalls that ask, and listens on loopback then; this says so
# of any system. Ray reads it when it is imported, and its processes inherit it.
ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"


@contextmanager
def this_machine_alone() -> Iterator[None]:
    """The clusters that are started within listen on loopback, and turn away who lacks their token.

    A ``RAY_AUTH_MODE`` that is set stands, as does a Ray without tokens: loopback remains.
    """
    before = {name: os.environ.get(name) for name in (ONE_MACHINE, MODE, TOKEN)}
    os.environ[ONE_MACHINE] = "0"
    os.environ.setdefault(MODE, "token")
    os.environ[TOKEN] = _token()
    from ray._private import ray_constants

    clusters = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    ray_constants.ENABLE_RAY_CLUSTER = False  # it may have been imported before
    _read_again()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_again()


def is_loopback(address: str) -> bool:
    """Whether a machine's address is one that no other machine can call."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


@cache
def _token() -> str:
    """This process's: Ray keeps the first one that it reads."""
    return secrets.token_hex(32)


def _read_again() -> None:
    """Make Ray, which reads its settings once, see those of the environment."""
    with suppress(Exception):
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")
