"""From a message that has landed to the first line of a script in a container, beside the bare runtime.

The runtime is called as little as possible (`exec IMAGE python3 SCRIPT`), and the two take turns. An ordinary user
whose runtime cannot mount image files runs them from a copy that was unpacked once; bare, it unpacks at each start.
"""

import json
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.result import Result
from bench.rig import MARK, running, spread
from servers.apptainer import make_sandbox, make_sif, runtime
from servers.process import MissingServerError
from studio_runner.testing import Installation, artifact, installation

TARGET = 1.3


def run(scale: float) -> Iterator[Result]:
    try:
        program = str(runtime())
    except MissingServerError as error:
        print(f"containers are left out: {error}")
        return
    runs = max(5, int(40 * scale))
    with tempfile.TemporaryDirectory(prefix="bench-containers-") as directory:
        sandbox = make_sandbox(Path(directory, "box"))
        sif = make_sif(sandbox, Path(directory, "box.sif"))
        archive = Path(directory, "box.tar")
        with tarfile.open(archive, "w") as writer:
            writer.add(sandbox, ".")
        with installation() as made, running(made):
            for name, bare, sent in (("sandbox", sandbox, archive), ("SIF file", sif, sif)):
                yield _beside(name, made, (program, bare), sent, runs)


def _beside(name: str, made: Installation, bare: tuple[str, Path], sent: Path, runs: int) -> Result:
    ours, by_hand = [], []
    _first_line(made, sent)  # the image is brought and asked for its interpreters
    for _ in range(runs):
        by_hand.append(_by_hand(*bare, made.home))
        ours.append(_first_line(made, sent))
    ratio = statistics.median(ours) / statistics.median(by_hand)
    return Result(
        name=f"message landed to first line, container ({name})",
        value=statistics.median(ours),
        unit="ms",
        bare=statistics.median(by_hand),
        bare_name="bare exec of the same image",
        ratio=ratio,
        target=f"<= {TARGET:g} x",
        met=ratio <= TARGET,
        detail=spread(ours),
    )


def _by_hand(program: str, image: Path, home: Path) -> float:
    """Milliseconds from before the start to the first line."""
    script = home / "bare.py"
    script.write_text(MARK)
    command = [program, "--silent", "exec", "--bind", str(home), str(image), "python3", str(script)]
    started = time.time()
    done = subprocess.run(command, capture_output=True, check=True)
    return (float(done.stdout) - started) * 1000


def _first_line(made: Installation, image: Path) -> float:
    """Milliseconds from the landing of a message to the first line."""
    key, body = made.request(made.workspace({"main.py": MARK}))
    document = json.loads(body)
    sent = {**artifact(image, mutable=False), "unpack": image.suffix == ".tar"}
    document["experiment"]["artifacts"]["_singularity"] = sent
    landed = made.publish(json.dumps(document).encode())
    results = made.wait(key)
    if not results.ok:
        raise RuntimeError(results.sentence)
    time.sleep(0.02)
    return (float(made.output(key).splitlines()[-1]) - landed) * 1000
