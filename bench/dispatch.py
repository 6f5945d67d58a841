"""From a message that has landed to the first line of the user's code, everything warm."""

import statistics
import subprocess
import time
from collections.abc import Iterator

from bench.result import Result
from bench.rig import MARK, clean_interpreter, running, spread
from studio_runner.testing import Installation, installation

TARGET_MS = 25.0


def run(scale: float) -> Iterator[Result]:
    runs = max(10, int(60 * scale))
    with installation() as made, running(made):
        bare = list(bare_starts(made, runs))
        ours = list(_ours(made, runs))
    over = statistics.median(ours) - statistics.median(bare)
    yield Result(
        name="message landed to first line, warm",
        value=statistics.median(ours),
        unit="ms",
        bare=statistics.median(bare),
        bare_name="bare interpreter to first line",
        ratio=statistics.median(ours) / statistics.median(bare),
        target=f"<= bare + {TARGET_MS:g} ms",
        met=over <= TARGET_MS,
        detail={**spread(ours), "over_bare": over},
    )


def bare_starts(made: Installation, runs: int) -> Iterator[float]:
    """Milliseconds from before the spawn to the first line."""
    python = clean_interpreter(made.home / "bare")
    script = made.home / "bare.py"
    script.write_text(MARK)
    for _ in range(runs):
        started = time.time()
        done = subprocess.run([python, str(script)], capture_output=True, check=True, env={})
        yield (float(done.stdout) - started) * 1000


def _ours(made: Installation, runs: int) -> Iterator[float]:
    workspace = made.workspace({"main.py": MARK})
    for _ in range(runs):
        key, body = made.request(workspace)
        landed = made.publish(body)
        made.wait(key)
        yield (float(made.output(key).split()[0]) - landed) * 1000
        time.sleep(0.02)
