"""One target under the fuzzer, in a process of its own: `python -m fuzz.campaign NAME ...`.

Inputs that fail are written down and passed over, one for each place in the code that they fail at: a defect does not
end the campaign.
"""

import argparse
import hashlib
import json
import logging
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

import atheris

from fuzz.target import REGRESSIONS, Target, load

LONGEST = 1.0
"""Seconds of processor time that one input may take."""
STUCK = 30
"""Seconds after which the fuzzer itself ends an input, and with it the campaign."""
MEMORY = 1024
"""MiB; likewise."""
_EVERY = 1.0
_INSTRUMENTED = ["studio_runner", "jsonpatch", "jsonpointer", "packaging", "yaml"]


@dataclass
class Progress:
    """What a campaign has seen. `resident` is MiB, one figure a second; `longest` processor seconds of an input."""

    executions: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    resident: list[float] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


class Campaign:
    """Runs inputs through a target, and keeps count in a file."""

    def __init__(self, name: str, target: Target, report: Path) -> None:
        self._target, self._report = target, report
        self._place = REGRESSIONS / name
        self._began, self._next = time.monotonic(), 0.0
        self._known: set[str] = set()
        self.progress = Progress()

    def one(self, data: bytes) -> None:
        began = time.process_time()
        try:
            self._target.check(data)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            if self._found(f"{type(error).__name__} at {_place(error)}", type(error).__name__, data):
                traceback.print_exception(error)
        took = time.process_time() - began
        if took > LONGEST:
            self._found("slow", "slow", data)
        self.progress.longest = max(self.progress.longest, took)
        self.progress.executions += 1
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY
            self._write(now)

    def _found(self, what: str, kind: str, data: bytes) -> bool:
        """Keep the input, unless one like it was kept."""
        if what in self._known:
            return False
        self._known.add(what)
        self._place.mkdir(parents=True, exist_ok=True)
        path = self._place / f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        self.progress.found.append(f"{what}: {path}")
        self._write(time.monotonic())
        return True

    def _write(self, now: float) -> None:
        self.progress.seconds = now - self._began
        self.progress.resident.append(resident())
        self._report.write_text(json.dumps(asdict(self.progress)))


def resident() -> float:
    """MiB of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / (1 << 20)


def _place(error: BaseException) -> str:
    """The innermost line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.campaign", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--room", type=Path, required=True, help="directory of this campaign's own files")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=_INSTRUMENTED):
        target = load(given.name)
    arguments = [sys.argv[0], *_arguments(given.name, target, given.seconds, given.room)]
    atheris.Setup(arguments, Campaign(given.name, target, given.room / "progress.json").one)
    atheris.Fuzz()


def _arguments(name: str, target: Target, seconds: int, room: Path) -> list[str]:
    corpus, seeds, words = room / "corpus", room / "seeds", room / "words"
    for directory in (corpus, seeds, REGRESSIONS / name):
        directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / f"{number:04}").write_bytes(seed[: target.MAX_LEN])
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.WORDS))
    return [
        *(f"-max_total_time={seconds}", f"-timeout={STUCK}", f"-rss_limit_mb={MEMORY}"),
        *(f"-max_len={target.MAX_LEN}", f"-artifact_prefix={REGRESSIONS / name}/"),
        *([f"-dict={words}"] if target.WORDS else []),
        *map(str, (corpus, seeds, REGRESSIONS / name)),
    ]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
