"""What the runner that is at work on this machine has reserved, and for whom: asked of its HTTP side."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from studio_runner.cli.checkup.finding import Finding, ok, warning
from studio_runner.config.settings import HttpSettings
from studio_runner.messages.units import format_duration, format_size

PATIENCE = 3.0
"""Seconds for the answer of something on this machine."""
_LARGEST = 4 << 20
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - only asked


def reservations(http: HttpSettings) -> Iterator[Finding]:
    """Whoever listens on the configured address is asked; it may be no runner."""
    try:
        view = _asked(http)
    except (OSError, ValueError) as error:
        yield warning(
            "HTTP",
            f"{http.address} is taken by something that does not answer like a runner: {error}",
            "Name another address with --http-address, or end that program.",
        )
        return
    yield ok("HTTP", f"runner {view['runner']} listens on {http.address}")
    names = {gpu["uuid"]: f"GPU {gpu['index']} ({gpu['name']})" for gpu in view["gpus"]}
    for one in view["running"]:
        yield ok("reserved", _line(one, names))
    if view["hold"]:
        yield ok("reserved", view["hold"]["sentence"])
    free = view["free"]
    amounts = f"{free['cores']} cores, {format_size(free['memory'])} memory, {format_size(free['disk'])} disk"
    idle = [names[gpu["uuid"]] for gpu in view["gpus"] if gpu["state"] == "free"]
    yield ok("free", ", ".join([amounts, *idle]))


def _asked(http: HttpSettings) -> Mapping[str, Any]:
    """OSError or ValueError when there is no runner's answer."""
    request = urllib.request.Request(f"http://{_reachable(http.address)}/api/v1/runner")
    if http.token:
        request.add_header("Authorization", f"Bearer {http.token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE) as response:
        view = json.loads(response.read(_LARGEST))
    if not isinstance(view, dict) or not {"runner", "running", "free", "gpus", "hold"} <= view.keys():
        raise ValueError("what it says is not a runner's")
    return view


def _reachable(address: str) -> str:
    """An address that stands for every interface is asked by the loopback."""
    host, _, port = address.rpartition(":")
    return f"{_LOOPBACK.get(host, host)}:{port}"


def _line(one: Mapping[str, Any], names: Mapping[str, str]) -> str:
    share = [f"{one['cores']} core{'' if one['cores'] == 1 else 's'}"]
    if one["memory_reserved"]:
        share.append(f"{format_size(one['memory_reserved'])} memory")
    share += [names.get(uuid, uuid) for uuid in one["gpus"]]
    return f"{', '.join(share)}: {one['key']} of {one['queue']}, for {format_duration(one['elapsed'])}"
