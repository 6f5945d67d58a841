"""`--hyperparam NAME=VALUES`: one experiment for every point of a grid, the value written into the script.

The forms of VALUES and the way a value gets into the script are those of the existing client: every use of NAME
in the script, that is every occurrence with no `=` after it on its line, becomes the value.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from studio_runner.errors import UsageError

MAX_EXPERIMENTS = 10_000
"""A grid beyond this is a slip of the hand."""

_ACCEPTED = "V, V1,V2,..., FROM:TO (steps of 1), FROM:COUNT:TO, FROM:STEP:TO or FROM:lCOUNT:TO (logarithmic)"


@dataclass(frozen=True)
class Hyperparameter:
    """A name and the values it takes, as they are written into the script."""

    name: str
    values: tuple[str, ...]


def parse_hyperparameter(text: str) -> Hyperparameter:
    """`lr=0.1,0.01`, `layers=1:4`, `lr=0.001:l5:0.1`, ..."""
    name, equals, values = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--hyperparam {text!r} is not NAME=VALUES", hint=f"VALUES is {_ACCEPTED}.")
    try:
        found = tuple(_values(values))
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise UsageError(
            f"--hyperparam {text!r} has values that cannot be read: {values!r}", hint=f"VALUES is {_ACCEPTED}."
        ) from error
    return Hyperparameter(name, found)


def grid(parameters: Sequence[Hyperparameter]) -> list[dict[str, str]]:
    """Every combination of the values."""
    size = math.prod(len(parameter.values) for parameter in parameters)
    if size > MAX_EXPERIMENTS:
        raise UsageError(
            f"The hyperparameters make {size} experiments; at most {MAX_EXPERIMENTS} are submitted at once."
        )
    names = [parameter.name for parameter in parameters]
    return [
        dict(zip(names, point, strict=True))
        for point in itertools.product(*(parameter.values for parameter in parameters))
    ]


def substitute(script: str, point: Mapping[str, str]) -> str:
    """The script's text with the values of one point in it."""
    for name, value in point.items():
        script, count = re.subn(rf"\b{re.escape(name)}\b(?=[^=\n]*(?:\n|\Z))", value, script)
        if not count:
            raise UsageError(
                f"The script does not use the hyperparameter {name!r}.",
                hint="A use is an occurrence of the name with no `=` after it on its line, such as `train(lr)`.",
            )
    return script


def _values(text: str) -> Iterator[str]:
    if "," in text:
        yield from (_number(part) for part in text.split(","))
    elif ":" in text:
        yield from (repr(value) for value in _range(text.split(":")))
    else:
        yield _number(text)


def _number(text: str) -> str:
    """The number as it was written: `16` stays an integer in the script."""
    if not math.isfinite(float(text)):
        raise ValueError(text)
    return text.strip()


def _range(limits: Sequence[str]) -> list[float]:
    if len(limits) == 2:
        return _steps(float(limits[0] or 0), float(limits[1]) + 1.0, 1.0)
    start, middle, end = float(limits[0] or 0), limits[1], float(limits[2])
    if "l" in middle:
        return [math.exp(value) for value in _spread(math.log(start), math.log(end), int(middle.replace("l", "")))]
    step = float(middle)
    if step.is_integer() and step > abs(end - start):
        return _spread(start, end, int(step))
    return _steps(start, end + 0.5 * step, step)


def _spread(start: float, end: float, count: int) -> list[float]:
    if not 0 < count <= MAX_EXPERIMENTS:
        raise ValueError(count)
    return [start + (end - start) * i / (count - 1) for i in range(count)] if count > 1 else [start]


def _steps(start: float, before: float, step: float) -> list[float]:
    count = math.ceil((before - start) / step)
    if not 0 < count <= MAX_EXPERIMENTS:
        raise ValueError(count)
    return [start + i * step for i in range(count)]
