"""What every experiment of the suite runs: `train.py KIND NUMBER`.

Its result follows from its arguments. Everything it leaves carries a token of this one execution, so that parts of
different executions cannot be taken for one whole.
"""

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
import uuid
from pathlib import Path

STEPS = {"quick": 1, "failing": 1, "large": 1, "checkpointed": 8, "long": 0}
SECONDS_PER_STEP = 0.5
EXIT_CODES = (3, 4, 5, 6)
LARGE = 3 << 20

TOKEN = uuid.uuid4().hex
MODEL, RETURNED = Path("../modeldir"), Path("../retval")


def steps(kind: str, number: int) -> int:
    """How many steps it takes; a long one sleeps for 10 to 30 seconds."""
    return STEPS[kind] or 20 + number % 41


def step(value: str, number: int) -> str:
    return hashlib.sha256(f"{value} {number}".encode()).hexdigest()


def known_result(kind: str, number: int) -> str:
    """What the last line of the output must say."""
    value = "seed"
    for at in range(steps(kind, number)):
        value = step(value, number + at)
    return value


def exit_code(kind: str, number: int) -> int:
    return EXIT_CODES[number % len(EXIT_CODES)] if kind == "failing" else 0


def payload(token: str) -> bytes:
    """Bytes that belong to one execution and do not compress."""
    block = b"".join(hashlib.sha256(f"{token} {at}".encode()).digest() for at in range(128))
    return block * (LARGE // len(block))


def main(kind: str, number: int) -> int:
    note("start")
    print("token", TOKEN, flush=True)
    at, value = resumed(kind)
    while at < steps(kind, number):
        if STEPS[kind] != 1:
            time.sleep(SECONDS_PER_STEP)
        value = step(value, number + at)
        at += 1
        if STEPS[kind] != 1:
            keep(MODEL / "state.json", json.dumps({"step": at, "value": value}).encode())
    if kind == "large":
        keep(MODEL / "weights.bin", payload(TOKEN))
    result = json.dumps({"token": TOKEN, "result": value}).encode()
    keep(MODEL / "result.json", result)
    keep(RETURNED / "result.json", result)
    print("result", value, TOKEN, flush=True)
    note("end")
    return exit_code(kind, number)


def resumed(kind: str) -> tuple[int, str]:
    """Where an earlier execution's last checkpoint left off."""
    with contextlib.suppress(FileNotFoundError):
        state = json.loads((MODEL / "state.json").read_text())
        print(f"{kind}: resumed at step {state['step']}", flush=True)
        note(f"resume {state['step']}")
        return state["step"], state["value"]
    return 0, "seed"


def keep(path: Path, content: bytes) -> None:
    """Write it whole, however long the disk is full: what fails then is not the script."""
    new = path.with_name(path.name + ".new")
    while True:
        try:
            new.write_bytes(content)
            new.replace(path)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            time.sleep(0.2)
        else:
            return


def note(what: str) -> None:
    """One line in the log beside the cluster, which nothing of the storm touches."""
    line = f"{what} {TOKEN} {time.time():.3f}\n"
    with Path(os.environ["FAULTS_LOG"]).open("a") as log:
        log.write(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
