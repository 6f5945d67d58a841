"""The installed command, as an operator uses it."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "studio-runner"
QUEUE = "local_q"
WAITING = """\
import os, time
open({gate!r}, "w").close()
while os.path.exists({gate!r}):
    time.sleep(0.01)
print("done")
"""


@dataclass(frozen=True)
class Home:
    """A user's home of its own, and the command in it."""

    path: Path

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
        return {**kept, "HOME": str(self.path), "PATH": os.environ["PATH"], "STUDIO_RUNNER_HTTP_ADDRESS": "none"}

    def run(self, *arguments, stdin=None, timeout=120, **environ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environ | environ,
            cwd=self.path,
        )

    def json(self, *arguments, **environ):
        done = self.run(*arguments, "--json", **environ)
        return json.loads(done.stdout)

    @contextmanager
    def start(self, *arguments):
        """`studio-runner start`; its log is its standard output."""
        process = subprocess.Popen(
            [COMMAND, "start", *arguments],
            env=self.environ,
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def queue(self, name: str, body: str | bytes) -> None:
        """As existing clients do: a file in the queue's directory."""
        place = self.path / ".studioml" / "queue" / QUEUE
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(body.encode() if isinstance(body, str) else body)

    def request(self, script: str, key: str = "1530054412_x", **experiment) -> str:
        """A request whose workspace holds `script` as train.py; its results go below `store`."""
        store = self.path / "store"
        store.mkdir(exist_ok=True)
        with tarfile.open(store / f"{key}-workspace.tar", "w") as tar:
            member = tarfile.TarInfo("train.py")
            member.size = len(script.encode())
            tar.addfile(member, io.BytesIO(script.encode()))
        artifacts = {
            "workspace": {"qualified": f"file://{store}/{key}-workspace.tar", "mutable": False, "unpack": True},
            "output": {"qualified": f"file://{store}/{key}-output.tar", "mutable": True, "unpack": True},
        }
        document = {"key": key, "filename": "train.py", "pythonver": 3, "artifacts": artifacts, **experiment}
        return json.dumps({"experiment": document, "config": {}})

    def output(self, key: str = "1530054412_x") -> str:
        with tarfile.open(self.path / "store" / f"{key}-output.tar") as tar:
            return tar.extractfile(next(m for m in tar.getmembers() if m.name.endswith("output"))).read().decode()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def test_the_version(home):
    done = home.run("--version")

    assert done.returncode == 0
    assert done.stdout.startswith("studio-runner ")


def test_exec_prints_the_output_and_exits_with_the_scripts_code(home):
    message = home.path / "message.json"
    message.write_text(home.request("import sys\nprint('args', sys.argv[1:])\nsys.exit(7)\n", args=["10", "'a b'"]))

    done = home.run("exec", message)

    assert done.returncode == 7, done.stderr
    assert "args ['10', 'a b']" in done.stdout
    assert "script_failed" in done.stderr
    assert "args ['10', 'a b']" in home.output()
    assert list((home.path / ".studioml" / "runner" / "experiments").iterdir()) == []


def test_exec_reads_standard_input_and_keeps_the_directory_when_asked(home):
    done = home.run("exec", "-", "--keep", stdin=home.request("open('made.txt', 'w').write('x')\n"))

    assert done.returncode == 0, done.stderr
    (kept,) = (home.path / ".studioml" / "runner" / "experiments").iterdir()
    assert (kept / "workspace" / "made.txt").read_text() == "x"
    assert str(kept.parent) in done.stderr


def test_exec_of_what_is_no_request_says_what_is_wrong(home):
    done = home.run("exec", "-", stdin='{"experiment": {"key": 3}}')

    assert done.returncode == 1
    assert "$.experiment.key" in done.stderr
    assert "Traceback" not in done.stderr


def test_exec_goes_on_when_nobody_reads_its_output_any_more(home):
    message = home.path / "message.json"
    message.write_text(home.request("for n in range(20000): print('line', n)\n"))
    with subprocess.Popen([COMMAND, "exec", message], env=home.environ, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()

    assert process.returncode == 0
    assert "line 19999" in home.output()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_what_exec_runs_and_what_there_is_is_delivered(home, number, code):
    message = home.path / "message.json"
    message.write_text(home.request("import time\nprint('begun', flush=True)\ntime.sleep(600)\n"))
    with subprocess.Popen(
        [COMMAND, "exec", message], env=home.environ, stdout=subprocess.PIPE, text=True
    ) as process:
        until(lambda: "begun" in process.stdout.readline())
        process.send_signal(number)

    assert process.returncode == code
    assert "begun" in home.output()
    assert "stopped" in home.output()


def test_check_finds_nothing_wrong_with_what_would_run(home):
    message = home.path / "message.json"
    message.write_text(home.request("print(1)\n", pythonenv=["six==1.16.0", "Python==2.7.12"], max_duration="20m"))

    found = home.json("check", message)

    assert found["runs"] is True
    sentences = " ".join(finding["sentence"] for finding in found["findings"])
    assert "six==1.16.0" in sentences
    assert "20m" in sentences
    assert not (home.path / ".studioml" / "runner").exists()


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({"pythonver": "3.99"}, "environment", "No Python 3.99"),
        ({"pythonenv": ["-r /etc/passwd"]}, "environment", "-r"),
        ({"resources_needed": {"cpus": 4096}}, "resources", "4096 cores wanted"),
        ({"resources_needed": {"gpus": 1}}, "resources", "1 GPU wanted"),
        ({"filename": "other.py"}, "script", "other.py is not in the workspace"),
        (
            {"artifacts": {"workspace": {"qualified": "file:///nowhere/w.tar"}}},
            "artifact workspace",
            "/nowhere/w.tar",
        ),
        (
            {"artifacts": {"workspace": {"qualified": "s3://h.invalid/b/w.tar"}}},
            "artifact workspace",
            "no address is known for the host h.invalid",
        ),
        ({"artifacts": {"workspace": {"qualified": "ftp://h/w.tar"}}}, "artifact workspace", "ftp://"),
        ({"args": "10"}, "message", "$.experiment.args"),
    ],
)
def test_check_names_what_would_keep_it_from_running(home, change, subject, words):
    request = home.request("print(1)\n", **change)

    done = home.run("check", "-", "--json", stdin=request)

    assert done.returncode == 1
    problems = {
        one["subject"]: one["sentence"] for one in json.loads(done.stdout)["findings"] if one["state"] == "problem"
    }
    assert words in problems[subject]


def test_check_says_that_the_lifetime_is_over(home):
    document = json.loads(home.request("print(1)\n", time_added=1530054413.0))
    document["config"]["experimentLifetime"] = "30m"

    done = home.run("check", "-", stdin=json.dumps(document))

    assert done.returncode == 1
    assert "lifetime: it was over" in done.stdout
    assert done.stdout.rstrip().endswith("The runner would not run it.")


def test_check_says_that_the_cache_cannot_be_used(home):
    (home.path / "file").touch()

    done = home.run("check", "-", "--cache-dir", home.path / "file" / "cache", stdin=home.request("print(1)\n"))

    assert done.returncode == 1
    assert "environment: the cache cannot be used" in done.stdout


def test_start_runs_what_waits_and_ends_at_its_limit(home):
    home.queue("a", home.request("print('hello')\n"))

    with home.start("--limit-tasks", "1") as process:
        said, _ = process.communicate(timeout=120)

    assert process.returncode == 0
    assert "1 experiments started: 1 completed" in said
    assert "hello" in home.output()


def test_start_ends_when_there_is_nothing_to_do(home):
    with home.start("--limit-idle-duration", "200ms") as process:
        assert process.wait(60) == 0


def test_sigterm_lets_the_experiment_finish(home):
    gate = home.path / "gate"
    home.queue("a", home.request(WAITING.format(gate=str(gate))))
    with home.start() as process:
        until(gate.exists)

        process.send_signal(signal.SIGTERM)
        until(lambda: "SIGTERM" in process.stdout.readline())
        home.queue("b", home.request("print('never')\n", key="1530054412_y"))
        gate.unlink()

        assert process.wait(60) == 0
    assert "done" in home.output()
    assert home.json("queues")[0]["waiting"] == 1


def test_a_second_signal_gives_the_experiment_back(home):
    gate = home.path / "gate"
    home.queue("a", home.request(WAITING.format(gate=str(gate))))
    with home.start() as process:
        until(gate.exists)

        process.send_signal(signal.SIGINT)
        until(lambda: "SIGINT" in process.stdout.readline())
        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 0
    (status,) = home.json("queues")
    assert (status["waiting"], status["claimed"], status["dead"]) == (1, 0, 0)


def test_a_dead_letter_is_shown_with_its_reason_and_put_back(home):
    home.queue("broken", "{ no json")
    with home.start("--limit-tasks", "1", "--log-format", "json") as process:
        said, _ = process.communicate(timeout=60)
    assert all(json.loads(line)["message"] for line in said.splitlines())

    (status,) = home.json("queues")
    assert (status["name"], status["waiting"], status["dead"], status["served"]) == (QUEUE, 0, 1, True)
    (letter,) = home.json("queues", QUEUE)
    assert "invalid_message" in letter["reason"]
    assert letter["name"] in home.run("queues", QUEUE).stdout

    assert home.run("requeue", QUEUE).returncode == 2
    assert home.run("requeue", QUEUE, "unknown").returncode == 1
    assert home.json("requeue", QUEUE, letter["name"]) == {"queue": QUEUE, "requeued": 1}

    (status,) = home.json("queues")
    assert (status["waiting"], status["dead"]) == (1, 0)
    assert home.run("requeue", QUEUE, "--all").stdout == f"0 messages are back on {QUEUE}.\n"


def test_an_unknown_queue_is_an_error_with_a_suggestion(home):
    home.queue("a", "{}")

    done = home.run("queues", "local_p")

    assert done.returncode == 1
    assert f"Did you mean {QUEUE}?" in done.stderr


def test_queues_says_which_are_not_served(home):
    home.queue("a", "{}")

    (status,) = home.json("queues", "--queue-mismatch", "q$")

    assert status["served"] is False
    assert status["waiting"] == 1


def test_doctor_is_content_with_a_fresh_home(home):
    done = home.run("doctor", "--json", PIP_NO_INDEX="1")

    findings = json.loads(done.stdout)
    assert [one for one in findings if one["state"] == "problem"] == []
    assert done.returncode == 0
    assert {"queue root", "cache", "disk", "interpreters", "uv", "machine"} <= {one["subject"] for one in findings}


def test_doctor_says_how_to_mend_what_is_broken(home):
    (home.path / "file").touch()

    done = home.run("doctor", "--queue-root", home.path / "file" / "queue", PIP_NO_INDEX="1", K8S_NAMESPACE="/x")

    assert done.returncode == 1
    assert "file is not a directory" in done.stdout
    assert "K8S_NAMESPACE is set and does nothing" in done.stdout
    assert "1 of " in done.stdout.splitlines()[-1]


def test_a_mistake_in_the_configuration_is_one_sentence(home):
    file = home.path / ".config" / "studio-runner" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[queues]\nmacth = 'x'\n")

    done = home.run("start")

    assert done.returncode == 2
    assert "did you mean 'queues.match'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_nobody_reads_to_its_end_is_no_error(home):
    shell = f"set -o pipefail; {COMMAND} config show | head -1; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", shell], check=False, env=home.environ, capture_output=True, text=True)

    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in {"0", "141"}


def test_a_shell_is_offered_commands_flags_and_queues(home):
    home.queue("a", "{}")

    def offered(*words):
        asked = {"_STUDIO_RUNNER_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["studio-runner", *words])}
        return home.run(**asked, COMP_CWORD=str(len(words))).stdout.split()

    assert offered("doc") == ["plain,doctor"]
    assert offered("queues", "loc") == [f"plain,{QUEUE}"]
    assert "plain,--queue-match" in offered("start", "--queue")
