"""What a target is."""

import importlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "tests" / "samples"
REGRESSIONS = HERE / "regressions"

TARGETS = tuple(sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py")))


class Target(Protocol):
    """A module of `fuzz.targets`. `check` raises whatever the tested code should not have raised, and
    AssertionError where something does not hold; it leaves nothing behind."""

    MAX_LEN: int
    """Bytes of the longest input."""
    WORDS: Sequence[bytes]
    """What inputs are made of: the fuzzer puts them in."""

    def seeds(self) -> Iterable[bytes]:
        """Inputs to begin with."""
        ...

    def check(self, data: bytes) -> None: ...


def load(name: str) -> Target:
    return cast("Target", importlib.import_module(f"fuzz.targets.{name}"))


def noise(count: int, size: int = 256) -> Iterable[bytes]:
    """Seeds for targets that read decisions: the same ones every time."""
    source = random.Random(5)  # noqa: S311  nothing secret
    return [source.randbytes(size) for _ in range(count)]
