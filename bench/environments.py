"""Environments with numpy and pandas: cold, from the installer's cache and warm; first and second experiment.

Beside each figure the same by hand: `uv venv` and `uv pip install`, or `python -m venv` and pip, with caches of
their own in the same state.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.result import Result
from bench.rig import spread
from studio_runner.environments.base import EnvironmentSpec
from studio_runner.environments.uv import uv_binary
from studio_runner.environments.virtualenv import VirtualenvProvider
from studio_runner.process.spawn import Spawner

PACKAGES = ("numpy", "pandas")
PYTHON = ".".join(map(str, sys.version_info[:3]))
SCRIPT = "import time; print(time.time(), flush=True); import pandas; print(time.time(), flush=True)"


@dataclass(frozen=True)
class Run:
    """Seconds from the request to: environment ready, first line of the script, `import pandas` done; and how long
    that import took, from the start of the interpreter."""

    ready: float
    first_line: float
    imported: float
    import_time: float


def run(scale: float) -> Iterator[Result]:
    rounds = max(1, round(3 * scale))
    with tempfile.TemporaryDirectory(prefix="bench-environments-") as name:
        yield from _cold(Path(name), max(1, round(9 * scale)))  # the network varies by more than the target
        yield from _from_cache(Path(name), rounds)
        yield from _warm(Path(name), max(20, int(500 * scale)))
        yield from _bytecode(Path(name), rounds)


def _cold(home: Path, rounds: int) -> Iterator[Result]:
    """Nothing there: everything is downloaded. The two take turns, so that the network is the same to both."""
    ours, uv = [], []
    for number in range(rounds):
        uv.append(_bare_uv(home / f"uv{number}", home / f"uv{number}"))
        ours.append(asyncio.run(_ours(home / f"ours{number}")))
    yield _beside(
        "environment cold, to the first line", [one.first_line for one in ours], [one.first_line for one in uv]
    )
    yield _beside(
        "environment cold, to `import pandas` done", [one.imported for one in ours], [one.imported for one in uv]
    )
    pip = _bare_pip(home / "pip")
    value = statistics.median(one.imported for one in ours)
    yield Result(
        name="the same beside pip",
        value=value,
        unit="s",
        bare=pip.imported,
        bare_name="venv and pip, which compile first",
        ratio=value / pip.imported,
    )


def _from_cache(home: Path, rounds: int) -> Iterator[Result]:
    """Downloaded before: files are linked from uv's cache."""
    ours, uv = [], []
    for number in range(rounds):
        uv.append(_bare_uv(home / f"again{number}", home / "uv0"))
        _set_aside(home / "ours0/environments")
        ours.append(asyncio.run(_ours(home / "ours0")))
    # No target: 30 ms for protecting the files, and the setuptools that bare uv leaves out, weigh more here.
    result = _beside(
        "environment from uv's cache, to the first line",
        [one.first_line for one in ours],
        [one.first_line for one in uv],
    )
    yield replace(result, target="", met=None)


def _warm(home: Path, times: int) -> Iterator[Result]:
    found = asyncio.run(_prepare_again(home / "ours0", times))
    value = statistics.median(found)
    yield Result(
        name="environment warm, prepare",
        value=value,
        unit="ms",
        target="<= 5 ms",
        met=value <= 5,
        detail=spread(found),
    )


def _bytecode(home: Path, rounds: int) -> Iterator[Result]:
    first: list[float] = []
    second: list[float] = []
    compiled: list[float] = []
    for _ in range(rounds):
        _set_aside(home / "ours0/environments")
        for times, value in zip((first, second, compiled), asyncio.run(_three(home / "ours0")), strict=True):
            times.append(value.import_time)
    for name, times, target in (("first", first, None), ("second", second, 1.2)):
        ratio = statistics.median(times) / statistics.median(compiled)
        yield Result(
            name=f"`import pandas` in the {name} experiment",
            value=statistics.median(times),
            unit="s",
            bare=statistics.median(compiled),
            bare_name="everything compiled",
            ratio=ratio,
            target=f"<= {target:g} x" if target else "",
            met=ratio <= target if target else None,
            detail=spread(times),
        )


def _beside(name: str, ours: list[float], bare: list[float]) -> Result:
    ratio = statistics.median(ours) / statistics.median(bare)
    return Result(
        name=name,
        value=statistics.median(ours),
        unit="s",
        bare=statistics.median(bare),
        bare_name="uv venv, uv pip install",
        ratio=ratio,
        target="<= 1.15 x uv",
        met=ratio <= 1.15,
        detail=spread(ours),
    )


async def _ours(cache: Path) -> Run:
    async with Spawner() as spawner, VirtualenvProvider(cache, 0, spawner, _variables(cache)) as provider:
        await provider.interpreters.all()  # a daemon does that when it starts
        return await _experiment(provider)


async def _three(cache: Path) -> tuple[Run, Run, Run]:
    """Two experiments one right after the other, and one when everything is compiled."""
    async with Spawner() as spawner, VirtualenvProvider(cache, 0, spawner, _variables(cache)) as provider:
        first, second = await _experiment(provider), await _experiment(provider)
        await provider.compiled()
        return first, second, await _experiment(provider)


async def _prepare_again(cache: Path, times: int) -> list[float]:
    found = []
    async with Spawner() as spawner, VirtualenvProvider(cache, 0, spawner, _variables(cache)) as provider:
        for _ in range(times):
            started = time.perf_counter()
            async with provider.prepare(_spec(), lambda _: None):
                found.append((time.perf_counter() - started) * 1000)
    return found[1:]


async def _experiment(provider: VirtualenvProvider) -> Run:
    started = time.time()
    async with provider.prepare(_spec(), lambda _: None) as environment:
        ready = time.time()
        script = environment.prefix.parent.parent.parent / "script.py"
        script.write_text(SCRIPT)
        command = environment.command([script.name], {}, script.parent)
        spawned = time.time()
        process = await asyncio.create_subprocess_exec(
            *command.argv, env=dict(command.env), cwd=command.cwd, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    first_line, imported = map(float, out.split())
    return Run(ready - started, first_line - started, imported - started, imported - spawned)


def _bare_uv(place: Path, cache: Path) -> Run:
    uv, python = str(uv_binary()), place / "env/bin/python"
    env = _variables(cache) | {"UV_CACHE_DIR": str(cache / "uv")}
    started = time.time()
    for argv in (
        (uv, "venv", "-q", "--no-project", "--python", _interpreter(), str(place / "env")),
        (uv, "pip", "install", "-q", "--python", str(python), *PACKAGES),
    ):
        subprocess.run(argv, check=True, env=env, cwd=cache.parent)
    return _by_hand(python, started)


def _bare_pip(place: Path) -> Run:
    env = _variables(place) | {"PIP_CACHE_DIR": str(place / "cache")}
    python = place / "env/bin/python"
    started = time.time()
    for argv in (
        (_interpreter(), "-m", "venv", str(place / "env")),
        (str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES),
    ):
        subprocess.run(argv, check=True, env=env)
    return _by_hand(python, started)


def _by_hand(python: Path, started: float) -> Run:
    ready = time.time()
    done = subprocess.run([str(python), "-c", SCRIPT], check=True, capture_output=True, env={})
    first_line, imported = map(float, done.stdout.split())
    return Run(ready - started, first_line - started, imported - started, imported - ready)


def _set_aside(environments: Path) -> None:
    """Out of the way without the file system being busy removing it."""
    environments.rename(environments.with_name(f"aside-{time.time_ns()}"))


def _interpreter() -> str:
    return str(Path(sys.base_prefix) / f"bin/python{sys.version_info[0]}.{sys.version_info[1]}")


def _variables(home: Path) -> dict[str, str]:
    """The default index and nobody's settings, for ours and for the bare tools alike."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "TMPDIR": str(home.parent)}


def _spec() -> EnvironmentSpec:
    return EnvironmentSpec(PYTHON, PACKAGES)
