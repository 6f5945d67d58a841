"""Bad neighbours and a good one on one runner: with control groups, without, and as an ordinary user."""

import os
import shutil
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from studio_runner.process.cgroups.hierarchy import MEMORY, PIDS, find
from studio_runner.testing import installation

FOUR_CORES = Path(__file__).parent / "programs" / "four_cores.py"
NOBODY = 65534
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),  # the interpreter may be in root's home
)
FOUND = find()

BOMB = """
import os, time
os.read(os.open(os.environ["GATE"], os.O_RDONLY), 1)
for _ in range(11):  # a real one would not give up at 2048, but this machine has other work
    if os.fork() == 0 and os.getpid() % 3 == 0:
        os.setsid()
time.sleep(600)
"""
HOG = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
os.read(os.open(os.environ["GATE"], os.O_RDONLY), 1)
for _ in range(4):
    if os.fork() == 0:
        block = os.urandom(1 << 20) * 60
        time.sleep(600)
time.sleep(600)
"""
FILLER = """
import os, time
os.read(os.open(os.environ["GATE"], os.O_RDONLY), 1)
open("sparse", "wb").truncate(30_000_000)
number = 0
while True:
    number += 1
    with open(f"file-{number}", "wb") as file:
        file.write(bytes(1_000_000))
    time.sleep(0.005)
"""
GOOD = """
import os, time
os.read(os.open(os.environ["GATE"], os.O_RDONLY), 1)
block, total = b"x" * 50_000_000, 0
for number in range(15_000_000):
    total += number
assert os.fork() or os._exit(0) is None
print(total)
"""
QUICK = """
import os
with open("file", "wb") as file:
    for _ in range(90):
        file.write(bytes(1_000_000))
os._exit(3)
"""
BAD = {"processes_exceeded": BOMB, "out_of_memory": HOG, "disk_exceeded": FILLER}
SAID = {"processes_exceeded": "100 at once", "out_of_memory": "150 MB (ram)", "disk_exceeded": "60 MB (hdd)"}
SHARE = {"cpus": 1, "ram": "150mb", "hdd": "60mb"}


class Way:
    """How the runner is started."""

    def __init__(self, place, *options, nobody=False):
        self.place = place
        self.daemons = []
        self.options = ("--max-processes", "100", *options)
        self.program = (*(AS_NOBODY if nobody else ()), sys.executable, str(FOUR_CORES), "start")

    def start(self, *options):
        self.daemons.append(self.place.start(*self.options, *options, program=self.program))
        return self.daemons[-1]

    def close(self):
        """A test that failed leaves no runner behind: with it go its experiments."""
        for daemon in self.daemons:
            daemon.kill()
            daemon.wait()

    def end(self, daemon):
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(120) == 0, self.place.log()


def needs_groups():
    if not (FOUND.holding(MEMORY) and FOUND.holding(PIDS)):
        pytest.skip("; ".join(obstacle.sentence for obstacle in FOUND.obstacles.values()))


def needs_root():
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can start a runner as somebody else, by setpriv")


@pytest.fixture(params=["groups", "watched", "ordinary user"])
def way(request, cache):
    if request.param == "groups":
        needs_groups()
        with installation(cache) as place, closing(Way(place)) as way:
            yield way
    elif request.param == "watched":
        with installation(cache) as place, closing(Way(place, "--cgroups", "off")) as way:
            yield way
    else:
        needs_root()
        with installation() as place:
            (place.store / "blobstore").mkdir(parents=True)
            for directory in (place.home, *place.home.rglob("*")):
                os.chown(directory, NOBODY, NOBODY)
            with closing(Way(place, nobody=True)) as way:
                yield way


def groups_of(daemon):
    """Directories of this runner's control groups."""
    return [path for one in FOUND.hierarchies for path in one.base.glob(f"studio-runner.*-{daemon.pid}-*")]


def running(place):
    """Number of experiments."""
    found = set()
    for one in place.processes():
        with suppress(psutil.NoSuchProcess):
            found.add(one.environ()["STUDIOML_EXPERIMENT"])
    return len(found)


def test_a_good_neighbour_of_three_bad_ones_is_none_the_worse(way, until):
    place = way.place
    gate = place.home / "gate"
    os.mkfifo(gate)
    gate.chmod(0o666)
    env = {"env": {"GATE": str(gate)}}
    daemon = way.start()
    bad = {
        reason: place.submit({"main.py": script}, config=env, resources_needed=SHARE)
        for reason, script in BAD.items()
    }
    good = place.submit({"main.py": GOOD}, config=env, resources_needed=SHARE)
    until(lambda: running(place) == 4)
    before = psutil.Process(daemon.pid).memory_info().rss
    with gate.open("wb", buffering=0) as opened:
        opened.write(b"1234")
        for reason, key in bad.items():
            results = place.wait(key)
            assert (results.reason, results.ok) == (reason, False), results.exit_msg
            assert SAID[reason] in results.sentence
            assert f"[studio-runner] {reason}: {results.sentence}\n" in place.output(key)
        assert place.wait(good).ok, place.results(good).exit_msg
    assert place.output(good).endswith("112499992500000\n")
    assert psutil.Process(daemon.pid).memory_info().rss < before + 30_000_000
    until(lambda: not place.leftovers())
    way.end(daemon)
    assert groups_of(daemon) == []


def test_one_file_that_is_too_large_and_a_script_that_does_not_say_so(way):
    place = way.place
    daemon = way.start()
    key = place.submit({"main.py": QUICK}, resources_needed=SHARE)
    results = place.wait(key)
    assert results.reason == "disk_exceeded", results.exit_msg
    way.end(daemon)


def test_a_runner_that_is_killed_leaves_no_group_and_no_process(way, until):
    place = way.place
    started = place.home / "started"
    script = f"""
import os, time
if not os.path.exists({str(started)!r}):
    if os.fork() == 0:
        os.setsid()
    open({str(started)!r}, "w").close()
    time.sleep(600)
print("second time lucky")
"""
    key = place.submit({"main.py": script}, resources_needed=SHARE)
    doomed = way.start()
    until(started.exists)
    (supervisor,) = {one.ppid() for one in place.processes()} - {one.pid for one in place.processes()}
    os.kill(supervisor, signal.SIGSTOP)  # so that it cannot clear up
    doomed.kill()
    doomed.wait()
    daemon = way.start("--limit-tasks", "1")
    assert place.wait(key).ok
    assert daemon.wait(120) == 0
    os.kill(supervisor, signal.SIGCONT)
    assert place.output(key).endswith("second time lucky\n")
    assert place.leftovers() == []
    assert groups_of(doomed) == groups_of(daemon) == []


def test_thread_counts_are_set_and_the_sender_has_the_last_word(way):
    place = way.place
    daemon = way.start()
    script = "import os\nprint(os.environ['OPENBLAS_NUM_THREADS'], os.environ['RAYON_NUM_THREADS'])"
    key = place.submit({"main.py": script}, config={"env": {"RAYON_NUM_THREADS": "7"}}, resources_needed=SHARE)
    assert place.wait(key).ok
    assert place.output(key).endswith("1 7\n")
    way.end(daemon)
