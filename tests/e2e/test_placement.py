"""A real runner with an experiment that needs the whole machine, among small ones."""

import os
import re

import httpx
import pytest

WAITING = """
import os, time
while os.path.exists(os.environ["GATE"]):
    time.sleep(0.01)
"""
QUICK = "print('quick')"
SMALL = {"cpus": 1, "ram": "100mb", "hdd": "50mb", "gpus": 0}
WHOLE = {**SMALL, "cpus": 2}

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="big and small need two cores")


class Stage:
    """A runner of two cores of which one is busy until its gate goes."""

    def __init__(self, place, until):
        self.place, self.until = place, until
        self.gate = place.home / "gate"
        self.gate.touch()

    def submit(self, script, needs, limit, queue="local_test"):
        environment = {"GATE": str(self.gate)}
        key, body = self.place.request(
            self.place.workspace({"main.py": script}),
            config={"env": environment},
            resources_needed=needs,
            max_duration=limit,
        )
        (self.place.queue_root / queue).mkdir(exist_ok=True)
        self.place.publish(body, queue)
        return key

    def runs(self, key):
        try:
            return self.place.record(key)["status"] == "running"
        except FileNotFoundError:
            return False

    def https(self, runners):
        addresses = r" at (http://\S+)/"
        self.until(lambda: len(re.findall(addresses, self.place.log())) == runners)
        found = re.findall(addresses, self.place.log())
        return [httpx.Client(base_url=address, timeout=60, trust_env=False) for address in found]

    @property
    def http(self):
        return self.https(1)[0]

    def hold(self):
        with self.http as http:
            return http.get("/api/v1/runner").json()["hold"]

    def looked_at(self, queue, runners=1):
        """Wait until every runner has left a message of this queue: what is sent to another queue now comes later.
        Queues are read side by side, so that without it nobody knows which message is seen first."""
        left = re.compile(rf'^runner_queue_ignored\{{.*queue_name="{queue}".*\}} [1-9]', re.MULTILINE)
        for one in self.https(runners):
            with one as http:
                self.until(lambda http=http: left.search(http.get("/metrics").text))


@pytest.fixture
def stage(place, until):
    made = Stage(place, until)
    with place.daemon("--max-cores", "2", "--grace", "1s", "--http-address", "127.0.0.1:0", "--poll", "200ms"):
        yield made
        made.gate.unlink(missing_ok=True)


def test_a_big_one_gets_its_turn_and_small_ones_that_are_over_in_time_pass_meanwhile(stage, place, until):
    busy = stage.submit(WAITING, SMALL, "30m")
    until(lambda: stage.runs(busy))
    big = stage.submit(QUICK, WHOLE, "10m")
    late = [stage.submit(QUICK, SMALL, "2h") for _ in range(3)]
    hold = until(stage.hold)
    assert hold["key"] == big
    assert hold["share"]["cores"] == 2
    passing = [stage.submit(QUICK, SMALL, "1m") for _ in range(3)]
    for key in passing:
        assert place.wait(key).ok
    assert not any(stage.runs(key) or place.stored(key, "_results").exists() for key in [big, *late])

    with stage.http as http:
        page, metrics = http.get("/").text, http.get("/metrics").text
    assert f"held free for {big} of local_test until " in page
    assert 'studio_runner_held_cores{queue_name="local_test",queue_type="local"} 2.0' in metrics
    assert f"held free for {big} of local_test until " in place.log()

    stage.gate.unlink()
    assert place.wait(big).ok
    started = place.ended(big)["time_started"]
    for key in late:
        assert place.wait(key).ok
        assert place.ended(key)["time_started"] > started
    until(lambda: stage.hold() is None)


def test_room_that_was_held_is_free_again_when_the_message_is_withdrawn_or_its_queue_is_gone(stage, place, until):
    busy = stage.submit(WAITING, SMALL, "30m")
    until(lambda: stage.runs(busy))
    big = stage.submit(QUICK, WHOLE, "10m", queue="local_other")
    stage.looked_at("local_other")
    small = stage.submit(QUICK, SMALL, "2h")
    until(lambda: (hold := stage.hold()) and hold["key"] == big)
    for message in place.waiting("local_other"):
        message.unlink()
    (place.queue_root / "local_other").rename(place.home / "gone")
    assert place.wait(small).ok
    assert stage.hold() is None


def test_a_runner_that_is_to_run_so_many_ends_though_it_holds_room(place, until):
    stage = Stage(place, until)
    with place.daemon("--max-cores", "2", "--limit-tasks", "2") as daemon:
        busy = stage.submit(WAITING, SMALL, "30m")
        until(lambda: stage.runs(busy))
        big = stage.submit(QUICK, WHOLE, "10m")
        small = stage.submit(QUICK, SMALL, "2h")
        until(lambda: f"held free for {big}" in place.log())
        stage.gate.unlink()
        assert daemon.wait(120) == 0
    assert place.results(big).ok
    assert [small.encode() in path.read_bytes() for path in place.waiting()] == [True]


def test_of_two_runners_that_hold_room_for_the_same_one_the_other_goes_on(place, until):
    stage = Stage(place, until)
    other = place.home / "other gate"
    other.touch()
    common = ("--max-cores", "2", "--http-address", "127.0.0.1:0")
    here = (*common, "--queue-match", "^local_(test|here)$")
    there = (
        *common,
        "--queue-match",
        "^local_(test|there)$",
        "--working-dir",
        str(place.home / "there"),
    )
    with place.daemon(*here), place.daemon(*there):
        busy = stage.submit(WAITING, SMALL, "30m", queue="local_here")
        stage.gate = other
        busier = stage.submit(WAITING, SMALL, "30m", queue="local_there")
        until(lambda: stage.runs(busy) and stage.runs(busier))
        big = stage.submit(QUICK, WHOLE, "10m")
        stage.looked_at("local_test", runners=2)
        stage.submit(QUICK, SMALL, "2h", queue="local_here")
        small = stage.submit(QUICK, SMALL, "2h", queue="local_there")
        until(lambda: place.log().count(f"held free for {big} of local_test") == 2)
        (place.home / "gate").unlink()
        assert place.wait(big).ok
        assert place.wait(small).ok, "the runner that did not get the big one holds room for it no more"
        assert stage.runs(busier)
        other.unlink()
        assert place.wait(busier).ok
