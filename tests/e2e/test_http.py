"""The HTTP side of a real runner, as browsers, Prometheus and scripts use it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from studio_runner.storage.tar import Member, encode

COMMAND = Path(sys.executable).parent / "studio-runner"
PATIENCE = 120
TOKEN = "open-sesame"
HOSTILE = "<img src=x onerror=alert(1)>"

SLOW = """
import time
from pathlib import Path
print("<b>begun</b>", flush=True)
while not Path("/proc/self/cwd/../modeldir/enough").exists():
    time.sleep(0.05)
print("done", flush=True)
"""


class Runner:
    """A home with a project, and a running `studio-runner start` in it."""

    def __init__(self, home, *options, **environ):
        self.home = home
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
        self.environ = {**kept, "HOME": str(home), "PATH": os.environ["PATH"], **environ}
        (home / "none.txt").write_text("")
        (home / "slow.py").write_text(SLOW)
        (home / "quick.py").write_text("print('quick')")
        (home / "bad.py").write_text("raise SystemExit(3)")
        self.log = home / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([COMMAND, "start", *options], stderr=log, env=self.environ, cwd=home)
        self.address = self._address()
        self.http = httpx.Client(base_url=self.address, timeout=PATIENCE, trust_env=False)

    def _address(self):
        until(lambda: " at http" in self.log.read_text() or self.process.poll() is not None)
        found = re.search(r" at (http://\S+)/", self.log.read_text())
        assert found, self.log.read_text()
        return found[1]

    def submit(self, script, *options):
        arguments = [COMMAND, "submit", "--requirements", "none.txt", *options, script]
        done = subprocess.run(
            arguments, check=False, capture_output=True, text=True, env=self.environ, cwd=self.home, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def get(self, path, **parameters):
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer

    def post(self, path):
        return self.http.post(path, headers={"Authorization": f"Bearer {TOKEN}"})

    def experiment(self, key):
        return self.get(f"/api/v1/experiments/{key}").json()

    def until_prints(self, key):
        until(lambda: "begun" in self.http.get(f"/api/v1/experiments/{key}/output").text)

    def until_over(self, key):
        until(lambda: self.experiment(key)["time_finished"] is not None)
        return self.experiment(key)

    def let_end(self, key):
        """The script of this experiment has waited long enough."""
        until(lambda: self.experiment(key)["record"]["studio_runner"].get("directory"))
        directory = Path(self.experiment(key)["record"]["studio_runner"]["directory"])
        (directory / "modeldir" / "enough").touch()

    def end(self):
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:  # an experiment of a test that failed goes on
            self.process.send_signal(signal.SIGTERM)
            return self.process.wait(PATIENCE)


def until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    runner = Runner(home, "--http-address", "127.0.0.1:0", "--max-cores", "2", STUDIO_RUNNER_HTTP_TOKEN=TOKEN)
    yield runner
    assert runner.end() == 0, runner.log.read_text()
    assert "Traceback" not in runner.log.read_text()


@pytest.fixture
def alone(tmp_path):
    """Starts runners that a test ends by itself."""
    started = []

    def start(*options, **environ):
        started.append(Runner(tmp_path, *options, **environ))
        return started[-1]

    yield start
    for runner in started:
        runner.end()


def figures(runner):
    """Every sample of the metrics by name and labels (without the host)."""
    found = {}
    for family in text_string_to_metric_families(runner.get("/metrics").text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "host"}
            found[(sample.name, *sorted(labels.items()))] = sample.value
    return found


def events_until(runner, last, key, headers=None):
    """Names of the events about one experiment, up to and with `last`; the id of that one."""
    seen = []
    with runner.http.stream("GET", "/api/v1/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        identity = name = None
        for line in answer.iter_lines():
            if line.startswith("id: "):
                identity = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: ") and json.loads(line[6:]).get("key", key) == key:
                seen.append(name)
                if name == last:
                    return seen, identity
    raise AssertionError(f"the stream ended after {seen}")


def test_an_experiment_is_seen_from_its_start_to_its_end(runner):
    key = runner.submit("slow.py", "--project", "digits", "--ram", "1gb")
    runner.until_prints(key)

    [running] = [one for one in runner.get("/api/v1/runner").json()["running"] if one["key"] == key]
    assert running["stage"] == "run"
    assert running["project"] == "digits"
    assert running["memory_reserved"] == 10**9
    assert running["memory"] > 1_000_000
    labels = ("experiment", key), ("project", "digits"), ("queue_name", "local_default"), ("queue_type", "local")
    assert figures(runner)["runner_project_running", *labels] == 1
    assert figures(runner)["studio_runner_reserved_memory_bytes",] == 10**9
    assert key in runner.get("/").text

    runner.let_end(key)
    over = runner.until_over(key)
    assert over["reason"] == "completed"
    assert over["record"]["stored"]["output"]["size"] > 0
    assert runner.get(f"/api/v1/experiments/{key}/output").text.endswith("<b>begun</b>\ndone\n")
    until(lambda: key not in [one["key"] for one in runner.get("/api/v1/runner").json()["running"]])
    after = figures(runner)
    assert ("runner_project_running", *labels) not in after
    labels = ("experiment", ""), ("project", "digits"), ("queue_name", "local_default"), ("queue_type", "local")
    assert after["runner_project_completed", *labels] == 1
    assert after["studio_runner_stage_seconds_count", ("stage", "run")] >= 1
    assert after["studio_runner_environment_cache_misses_total",] == 1


def test_output_is_followed_while_it_is_written(runner):
    key = runner.submit("slow.py")
    runner.until_prints(key)
    with runner.http.stream("GET", f"/api/v1/experiments/{key}/output", params={"follow": "true"}) as answer:
        pieces = answer.iter_text()
        text = next(pieces)
        assert text.endswith("<b>begun</b>\n")
        runner.let_end(key)
        text += "".join(pieces)
    assert text.endswith("<b>begun</b>\ndone\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_end_of_the_output_can_be_had_alone(runner):
    key = runner.submit("slow.py")
    runner.until_prints(key)
    assert runner.get(f"/api/v1/experiments/{key}/output", tail=5).text == "</b>\n"
    runner.let_end(key)
    runner.until_over(key)
    assert runner.get(f"/api/v1/experiments/{key}/output", tail=5).text == "done\n"


def test_events_tell_of_every_stage_and_can_be_resumed(runner):
    key = runner.submit("slow.py")
    runner.until_prints(key)
    with runner.http.stream("GET", "/api/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        runner.let_end(key)
        seen = []
        for line in lines:
            if line.startswith("id: "):
                identity = line[4:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
                if data["key"] == key:
                    seen.append(data.get("stage") or data.get("reason"))
                    if "reason" in data:
                        break
    assert seen == ["finish", "completed"]
    epoch, _, number = identity.rpartition("-")
    again, last = events_until(runner, "ended", key, {"Last-Event-ID": f"{epoch}-{int(number) - 2}"})
    assert again == ["stage", "ended"]
    assert last == identity


def test_who_comes_back_to_another_process_is_told_to_look_anew(runner):
    seen, _ = events_until(runner, "reset", None, {"Last-Event-ID": "0-12"})
    assert seen == ["reset"]


def test_an_experiment_is_stopped_by_who_has_the_token(runner):
    key = runner.submit("slow.py")
    runner.until_prints(key)
    path = f"/api/v1/experiments/{key}/stop"
    assert runner.http.post(path).status_code == 401
    assert runner.http.post(path, headers={"Authorization": "Bearer no"}).status_code == 401
    assert runner.http.post(path, auth=("anybody", TOKEN)).status_code == 401
    assert runner.post(path).json() == {"key": key, "outcome": "asked"}
    assert runner.until_over(key)["reason"] == "stopped"
    until(lambda: runner.post(path).json()["outcome"] == "over")  # its message is settled after that


def test_a_waiting_experiment_is_taken_off_its_queue(runner):
    key = runner.submit("quick.py", "--cpus", "4096")
    answer = runner.post(f"/api/v1/experiments/{key}/stop")
    assert answer.json() == {"key": key, "outcome": "withdrawn"}
    assert runner.experiment(key)["status"] == "stopped"
    assert runner.http.get(f"/api/v1/experiments/{key}/output").status_code == 404


def test_stored_output_that_claims_to_be_huge_is_refused(runner):
    key = runner.submit("quick.py")
    stored = runner.until_over(key)["record"]["stored"]["output"]["address"]
    path = Path(stored.removeprefix("file://"))
    path.write_bytes(encode(Member(b"output", b"0", 0o644, 1 << 40, 0)) + bytes(512))
    answer = runner.http.get(f"/api/v1/experiments/{key}/output")
    assert answer.status_code == 507
    assert answer.json()["error"] == f"The artifact 'output' of experiment {key} has more than 1 GB"


def test_lists_are_filtered_and_paged(runner):
    keys = [runner.submit("bad.py", "--project", "paging") for _ in range(3)]
    for key in keys:
        runner.until_over(key)
    until(lambda: runner.get("/api/v1/experiments", project="paging", reason="script_failed").json()["total"] == 3)
    first = runner.get("/api/v1/experiments", project="paging", limit=2).json()
    assert [one["key"] for one in first["experiments"]] == [keys[2], keys[1]]
    rest = runner.get("/api/v1/experiments", project="paging", limit=2, after=first["next"]).json()
    assert [one["key"] for one in rest["experiments"]] == [keys[0]]
    assert rest["next"] is None
    assert rest["experiments"][0]["sentence"].startswith("The script failed with exit code 3")


def test_queues_show_what_is_in_them(runner):
    place = runner.home / ".studioml" / "queue"
    (place / "local_broken").mkdir(exist_ok=True)
    (place / "local_broken" / "letter").write_text("not a request")
    (place / "elsewhere").mkdir(exist_ok=True)

    def queue(name):
        return next((one for one in runner.get("/api/v1/queues").json()["queues"] if one["name"] == name), {})

    until(lambda: queue("local_broken").get("dead") == 1)
    assert queue("local_broken")["served"] is True
    assert queue("elsewhere") == {
        "name": "elsewhere", "served": False, "waiting": 0, "claimed": 0, "delayed": 0, "dead": 0,
    }  # fmt: skip
    labels = ("queue_name", "local_broken"), ("queue_type", "local")
    assert figures(runner)["studio_runner_queue_messages", *labels, ("state", "dead")] == 1
    assert figures(runner)["runner_queue_checked", *labels] >= 1


def test_what_strangers_name_their_experiments_stays_text(runner):
    key = runner.submit("quick.py", "--experiment", HOSTILE, "--project", "</title><script>alert(2)</script>")
    assert key == HOSTILE
    until(lambda: "/experiments/%3Cimg" in runner.get("/").text)
    for page in ("/", "/experiments/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"):
        text = runner.get(page).text
        assert "&lt;img" in text
        assert "<img" not in text
        assert "alert(2)</script>" not in text


def test_errors_say_what_to_do(runner):
    answer = runner.http.get("/api/v1/experiments/unknown")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "There is no experiment 'unknown'", "hint": "GET /api/v1/experiments lists those there are.",
    }  # fmt: skip
    page = runner.http.get("/experiments/unknown", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "There is no experiment" in page.text
    assert runner.http.get("/api/v1/experiments", params={"limit": "many"}).status_code == 400
    assert runner.http.delete("/api/v1/runner").status_code in (401, 405)


def test_another_host_is_not_answered(runner):
    answer = runner.http.get("/api/v1/runner", headers={"Host": "rebound.example:9090"})
    assert answer.status_code == 421
    assert "runner" not in answer.json().keys() - {"error", "hint"}


def test_the_description_is_served(runner):
    document = runner.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/api/v1/experiments/{key}/stop" in document["paths"]


def test_it_drains_by_request_and_says_so_meanwhile(alone):
    runner = alone("--http-address", "127.0.0.1:0", STUDIO_RUNNER_HTTP_TOKEN=TOKEN)
    assert runner.get("/readyz").json() == {"ready": True, "reasons": []}
    key = runner.submit("slow.py")
    runner.until_prints(key)
    assert runner.post("/api/v1/runner/drain").status_code == 202
    answer = runner.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["it is draining"]
    assert runner.get("/healthz").json() == {"status": "ok"}
    runner.let_end(key)
    assert runner.process.wait(PATIENCE) == 0


def test_open_streams_do_not_keep_the_runner(alone):
    runner = alone("--http-address", "127.0.0.1:0")
    key = runner.submit("slow.py")
    runner.until_prints(key)
    with (
        runner.http.stream("GET", "/api/v1/events") as events,
        runner.http.stream("GET", f"/api/v1/experiments/{key}/output", params={"follow": "true"}) as output,
    ):
        assert "begun" in next(output.iter_text())
        runner.process.send_signal(signal.SIGTERM)
        until(lambda: "SIGTERM" in runner.log.read_text())
        runner.process.send_signal(signal.SIGTERM)
        assert '"reason": "drained"' in events.read().decode()
    assert runner.process.wait(PATIENCE) == 0
    assert "Traceback" not in runner.log.read_text()


def test_who_does_not_read_does_not_keep_the_runner(alone):
    runner = alone("--http-address", "127.0.0.1:0")
    (runner.home / "flood.py").write_text(
        "for _ in range(20): print('x' * 1_000_000)\nimport time; time.sleep(600)"
    )
    key = runner.submit("flood.py")
    until(lambda: len(runner.http.get(f"/api/v1/experiments/{key}/output").content) > 19_000_000)
    host, _, port = runner.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        path = f"/api/v1/experiments/{key}/output?follow=true"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        runner.process.send_signal(signal.SIGTERM)
        until(lambda: "SIGTERM" in runner.log.read_text())
        runner.process.send_signal(signal.SIGTERM)
        assert runner.process.wait(PATIENCE) == 0
    assert "Traceback" not in runner.log.read_text()


def test_without_a_token_nothing_is_changed(alone):
    runner = alone("--http-address", "127.0.0.1:0")
    answer = runner.http.post("/api/v1/runner/drain", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 403
    assert "http.token" in answer.json()["hint"]
    assert runner.get("/api/v1/runner").json()["draining"] is False


def test_from_other_machines_only_the_probes_are_open(alone):
    runner = alone("--http-address", "0.0.0.0:0", STUDIO_RUNNER_HTTP_TOKEN=TOKEN)
    port = runner.address.rpartition(":")[2]
    base = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{base}/healthz", trust_env=False).status_code == 200
    assert httpx.get(f"{base}/readyz", trust_env=False).status_code == 200
    for path in ("/", "/metrics", "/api/v1/runner", "/api/v1/events"):
        assert httpx.get(f"{base}{path}", trust_env=False).status_code == 401
    assert httpx.get(f"{base}/", auth=("me", TOKEN), trust_env=False).status_code == 200
    assert httpx.get(f"{base}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False).is_success


def start(home, *options):
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run(
        [COMMAND, "start", *options],
        check=False, capture_output=True, text=True, env=environ, cwd=home, timeout=PATIENCE,
    )  # fmt: skip


def test_it_does_not_open_itself_to_the_network_unasked(tmp_path):
    done = start(tmp_path, "--http-address", "0.0.0.0:0")
    assert done.returncode == 2
    assert "can be reached from other machines" in done.stderr
    assert "--http-allow-remote" in done.stderr


def test_an_address_that_is_asked_for_and_taken_ends_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start(tmp_path, "--http-address", address)
    assert done.returncode == 2
    assert f"The HTTP address {address} is in use" in done.stderr


def test_a_second_runner_does_without_the_default_address(tmp_path):
    try:
        taken = socket.create_server(("127.0.0.1", 9090))
    except OSError:  # somebody has it already, which is as good
        taken = socket.socket()
    with taken:
        done = start(tmp_path, "--limit-idle-duration", "100ms")
    assert done.returncode == 0
    assert "going on without dashboard" in done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the experiment takes two cores")
def test_doctor_asks_the_runner_what_is_reserved_and_for_whom(runner):
    key = runner.submit("slow.py", "--cpus", "2", "--ram", "200mb")
    runner.until_prints(key)
    waiting = runner.submit("slow.py", "--ram", "300mb")
    address = runner.address.removeprefix("http://")

    done = subprocess.run(
        [COMMAND, "doctor", "--http-address", address], check=False, capture_output=True, text=True,
        env=runner.environ, cwd=runner.home, timeout=PATIENCE,
    )  # fmt: skip

    assert f"runner {runner.get('/api/v1/runner').json()['runner']} listens on {address}" in done.stdout
    assert re.search(rf"ok +reserved: 2 cores, 200 MB memory: {key} of local_\S+, for ", done.stdout)
    assert "ok        free: 0 cores, " in done.stdout
    assert waiting not in done.stdout
    for one in (key, waiting):
        runner.let_end(one)
        runner.until_over(one)
