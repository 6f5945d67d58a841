"""Fuzz every target, or those named, each in processes of its own; exit status 1 when anything is wrong.

What fails is put into fuzz/regressions, which the ordinary tests run through.
"""

import argparse
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from fuzz.target import HERE, REGRESSIONS, TARGETS

ROOMS = HERE / "campaigns"
_STATUS = re.compile(rb"cov: \d+ ft: (\d+) corp: (\d+)")
_GROWTH = 64.0
"""MiB that a campaign may gain after its first third: the fuzzer remembers inputs, and Python frees late."""
_KEPT = 0.05
"""Blocks of memory for each input."""
_STUCK = 60.0
"""Seconds that a replay may take besides its rounds."""


@dataclass(frozen=True)
class Account:
    """How a campaign went. `resident` in MiB: after a third of the time, at the end, and the most; `longest`
    processor seconds with and without the fuzzer."""

    name: str
    seconds: float
    executions: int
    features: int
    corpus: int
    longest: tuple[float, float]
    resident: tuple[float, float, float]
    kept: tuple[float, int]
    wrong: tuple[str, ...]

    def row(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0.0
        third, end, most = self.resident
        return (
            f"{self.name:13}{self.seconds:8.0f}{self.executions:12,}{rate:9,.0f}{self.features:9,}{self.corpus:8,}"
            f"{self.longest[0]:9.3f}{self.longest[1]:9.3f}{third:8.0f}{end:8.0f}{most:8.0f}"
            f"{self.kept[0]:9.3f}{self.kept[1]:7}{len(self.wrong):7}"
        )


HEAD = (
    f"{'target':13}{'seconds':>8}{'executions':>12}{'exec/s':>9}{'features':>9}{'corpus':>8}"
    f"{'longest':>9}{'bare':>9}{'MiB/3':>8}{'end':>8}{'most':>8}{'blocks':>9}{'files':>7}{'wrong':>7}"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="for each target (default: 600)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="targets at the same time (default: 1)")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if find_spec("atheris") is None:
        print("atheris is not installed here: `make fuzz` installs it where it can", file=sys.stderr)
        return 2
    print(HEAD, flush=True)
    wrong: list[str] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for account in pool.map(lambda name: campaign(name, given.seconds), given.targets or TARGETS):
            print(account.row(), flush=True)
            wrong += [f"{account.name}: {what}" for what in account.wrong]
    print("\n".join(wrong) if wrong else "\nnothing found")
    return int(bool(wrong))


def campaign(name: str, seconds: int) -> Account:
    room = ROOMS / name
    room.mkdir(parents=True, exist_ok=True)
    before = set(_findings(name))
    for leftover in ("progress.json", "replay.json"):
        (room / leftover).unlink(missing_ok=True)
    with (room / "log").open("wb") as log:
        command = [sys.executable, "-m", "fuzz.campaign", name, "--seconds", str(seconds), "--room", str(room)]
        ended = subprocess.run(command, stdout=log, stderr=log, check=False)
        again = _again(name, room, min(10.0, seconds / 10), log)
    ends = {"campaign": ended.returncode, "replay": again}
    wrong = [
        f"the {what} ended with status {status}, see {room / 'log'}" for what, status in ends.items() if status
    ]
    return _account(name, room, wrong, set(_findings(name)) - before)


def _again(name: str, room: Path, seconds: float, log: IO[bytes]) -> int:
    """Replay, each round for so long; the status."""
    command = [sys.executable, "-m", "fuzz.replay", name, str(room), str(seconds)]
    try:
        return subprocess.run(command, stdout=log, stderr=log, check=False, timeout=_STUCK + 6 * seconds).returncode
    except subprocess.TimeoutExpired:
        return 124


def _findings(name: str) -> list[Path]:
    place = REGRESSIONS / name
    return list(place.iterdir()) if place.is_dir() else []


def _account(name: str, room: Path, wrong: list[str], left: set[Path]) -> Account:
    progress = _read(
        room / "progress.json", {"executions": 0, "seconds": 0.0, "longest": 0.0, "resident": [0.0], "found": []}
    )
    found = "\n".join(progress["found"])
    wrong += [
        *progress["found"],
        *(f"the fuzzer ended at {path}" for path in sorted(left) if path.name not in found),
    ]
    replay = _read(room / "replay.json", {"blocks": 0.0, "files": 0, "longest": 0.0})
    statuses = _STATUS.findall((room / "log").read_bytes())
    features, corpus = map(int, statuses[-1]) if statuses else (0, 0)
    resident = progress["resident"]
    third, end = resident[len(resident) // 3], resident[-1]
    if end - third > _GROWTH:
        wrong.append(f"memory grew from {third:.0f} to {end:.0f} MiB")
    if replay["blocks"] > _KEPT or replay["files"] > 0:
        wrong.append(f"{replay['blocks']:.2f} blocks of memory kept for each input, {replay['files']} open files")
    return Account(
        name,
        progress["seconds"],
        progress["executions"],
        features,
        corpus,
        (progress["longest"], replay["longest"]),
        (third, end, max(resident)),
        (replay["blocks"], replay["files"]),
        tuple(wrong),
    )


def _read(path: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    return {**otherwise, **json.loads(path.read_text())} if path.exists() else otherwise


if __name__ == "__main__":
    sys.exit(main())
