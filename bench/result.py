"""What a benchmark yields."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One figure beside its physical limit, measured in the same run.

    `ratio` is `value / bare` for costs and rates alike; `detail` has minimum, median, maximum and number of runs.
    """

    name: str
    value: float
    unit: str
    bare: float | None = None
    bare_name: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    detail: dict[str, float] = field(default_factory=dict)
