"""A real runner that kills itself (SIGKILL) at one exact point: `dies_at.py POINT start ...`."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from studio_runner.cli.main import main


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(call: Callable[..., Any]) -> Callable[..., Any]:
    def dying(*_args: Any, **_options: Any) -> Any:
        die()
        return call

    return dying


def after(call: Callable[..., Any]) -> Callable[..., Any]:
    async def dying(*args: Any, **options: Any) -> None:
        await call(*args, **options)
        die()

    return dying


def midway(call: Callable[..., Any]) -> Callable[..., Any]:
    """While its installer runs: even an empty environment takes longer than this."""

    async def dying(*args: Any, **options: Any) -> Any:
        threading.Timer(0.03, die).start()
        return await call(*args, **options)

    return dying


POINTS = {
    "claimed": ("studio_runner.runner.attempt", "Attempt.run", before),
    "directory made": ("studio_runner.runner.artifacts", "Artifacts.begin", before),
    "fetching": ("studio_runner.runner.artifacts", "fetch_all", after),
    "building": ("studio_runner.environments.builder", "Builder.build", midway),
    "built": ("studio_runner.environments.builder", "Builder.build", after),
    "about to run": ("studio_runner.runner.attempt", "run_script", before),
    "script over": ("studio_runner.runner.attempt", "deliver", before),
    "brought home": ("studio_runner.runner.artifacts", "Artifacts.deliver", before),
    "delivered": ("studio_runner.runner.artifacts", "Artifacts.put_results", before),
    "uploaded": ("studio_runner.runner.artifacts", "Artifacts.put_results", after),
    "settling": ("studio_runner.queues.claims", "LocalDelivery.ack", before),
    "settled": ("studio_runner.queues.claims", "LocalDelivery.ack", after),
}


def arm(point: str) -> None:
    module_name, path, change = POINTS[point]
    owner: Any = import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, change(getattr(owner, name)))


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    main()
