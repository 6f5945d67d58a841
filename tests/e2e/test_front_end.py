"""The installed command, as somebody uses it who has an experiment to run."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).parent / "studio-runner"
PATIENCE = 120


@dataclass(frozen=True)
class User:
    """Somebody's home and project directory, and the command in the project."""

    home: Path
    project: Path

    @property
    def environ(self):
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
        return {**kept, "HOME": str(self.home), "PATH": os.environ["PATH"], "STUDIO_RUNNER_HTTP_ADDRESS": ""}

    def write(self, **files):
        for name, text in files.items():
            (self.project / f"{name}.py").write_text(text)

    def call(self, *arguments, **environ):
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            check=False, capture_output=True, text=True, timeout=PATIENCE, cwd=self.project, env=self.environ | environ,
        )  # fmt: skip

    def ok(self, *arguments, **environ):
        done = self.call(*arguments, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.ok(*arguments, "--json"))

    def begin(self, *arguments):
        return subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.project, env=self.environ,
        )  # fmt: skip

    @contextmanager
    def runner(self):
        process = self.begin("start")
        try:
            until(lambda: self.is_served)  # before that, a signal to end would kill it
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said

    @property
    def is_served(self):
        """A runner has signed in at the queues."""
        place = self.home / ".studioml" / "queue" / ".studio-runner" / "runners"
        return place.is_dir() and any(path.name[0] != "." for path in place.iterdir())

    def status(self, key):
        return self.json("show", key)["status"]


@pytest.fixture
def user(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    return User(tmp_path / "home", tmp_path / "project")


def until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


HELLO = """
import sys
from pathlib import Path
print("hello", sys.argv[1:])
Path("../modeldir/model.bin").write_text("weights")
"""

SLOW = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    Path("../modeldir/saved").write_text("half")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("running", flush=True)
time.sleep(600)
"""


def test_run_shows_the_output_and_keeps_the_results(user):
    user.write(train=HELLO)
    done = user.call("run", "train.py", "--lr", "0.1", "a b", "it's $HOME")
    assert done.returncode == 0, done.stderr
    assert """hello ['--lr', '0.1', 'a b', "it's $HOME"]\n""" in done.stdout
    assert "completed" in done.stderr
    assert "studio-runner show" in done.stderr
    assert user.ok("fetch", "last", "modeldir", "got") == f"1 file in {user.project / 'got'}\n"
    assert (user.project / "got" / "model.bin").read_text() == "weights"
    assert not list((user.home / ".studioml" / "runner" / "experiments").iterdir())
    assert not [path for path in (user.home / ".studioml" / "queue").iterdir() if path.name.startswith("local_")]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("1 / 0", 1),
    ],
)
def test_run_ends_as_the_script_did(user, script, code):
    user.write(train=script)
    assert user.call("run", "train.py").returncode == code
    shown = user.json("show", "last")
    assert shown["status"] == "finished"
    assert shown["studio_runner"]["reason"] == "script_failed"


def test_a_failure_is_explained_where_one_looks(user):
    user.write(train="raise ValueError('no such luck')")
    user.call("run", "train.py")
    shown = user.ok("show", "last")
    assert "script_failed" in shown
    assert "exit code 1" in shown
    assert "ValueError: no such luck" in shown
    assert "script_failed" in user.ok("list")


def test_interrupting_run_stops_the_experiment_and_keeps_what_it_made(user):
    user.write(train=SLOW)
    process = user.begin("run", "train.py")
    while "running" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "stopping the experiment" in said
    assert user.status("last") == "stopped"
    user.ok("fetch", "last", "modeldir", "got")
    assert (user.project / "got" / "saved").read_text() == "half"


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("running", flush=True)
while True:
    time.sleep(0.02)
    print("still running", flush=True)
"""


def test_interrupting_run_twice_kills_what_will_not_stop_and_keeps_its_results(user):
    user.write(train=STUBBORN)
    process = user.begin("run", "train.py")
    while "running" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    while "stopping" not in process.stderr.readline():
        assert process.poll() is None
    while "still running" not in process.stdout.readline():  # it has not stopped, nor will it
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert user.status("last") == "stopped"
    assert user.json("queues") == []
    assert "still running" in user.ok("logs", "last")
    assert not processes_with(str(user.project))


def processes_with(text):
    """Command lines of living processes that name it in their environment or arguments."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            seen = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in seen:
            found.append(seen)
    return found


def test_run_whose_reader_goes_away_stops_the_experiment(user):
    user.write(train=STUBBORN.replace("signal.SIG_IGN", "signal.SIG_DFL"))
    process = user.begin("run", "train.py")
    while "running" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(timeout=PATIENCE) == 141
    process.stderr.close()
    assert "stopping the experiment" in said
    assert "Traceback" not in said
    assert user.status("last") == "stopped"


def test_an_experiment_whose_run_was_killed_is_run_by_the_next_runner(user):
    user.write(train=SLOW.replace("time.sleep(600)", "time.sleep(2)"))
    process = user.begin("run", "train.py")
    while "running" not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.kill()
    process.communicate(timeout=PATIENCE)
    with user.runner():
        until(lambda: user.status("last") == "finished")
    shown = user.json("show", "last")["studio_runner"]
    assert shown["reason"] == "completed"
    assert shown["attempt"] == 2


def test_run_is_served_by_a_runner_of_the_same_root_as_well(user):
    user.write(train=HELLO)
    with user.runner():
        done = user.call("run", "train.py", "x")
    assert done.returncode == 0, done.stderr
    assert "hello ['x']" in done.stdout


def test_run_refuses_what_can_never_run_on_this_machine(user):
    user.write(train=HELLO)
    done = user.call("run", "--cpus", "100000", "train.py")
    assert done.returncode == 2
    assert "cannot run on this machine" in done.stderr
    assert user.json("list") == []


def test_a_submitted_experiment_waits_for_a_runner(user):
    user.write(train=HELLO)
    key = user.ok("submit", "--project", "digits", "--cpus", "1", "--max-duration", "5m", "train.py", "1").strip()
    assert user.status(key) == "waiting"
    assert user.json("list", "--project", "other") == []
    with user.runner():
        until(lambda: user.status(key) == "finished")
    [listed] = user.json("list", "--project", "digits", "--status", "finished")
    assert listed["key"] == key
    assert listed["reason"] == "completed"
    assert listed["script"] == "train.py 1"
    assert user.ok("logs", key) == user.ok("logs", "last")
    assert "hello ['1']" in user.ok("logs", key[:15])


def test_submit_can_follow_and_wait(user):
    user.write(train=HELLO, fail="print('oh'); raise SystemExit(4)")
    with user.runner():
        followed = user.call("submit", "--follow", "train.py", "now")
        assert followed.returncode == 0, followed.stderr
        assert "hello ['now']" in followed.stdout
        waited = user.call("submit", "--wait", "--json", "fail.py")
        assert waited.returncode == 1
        [submitted] = json.loads(waited.stdout)
        assert submitted["reason"] == "script_failed"
        assert user.call("logs", "-f", submitted["key"]).returncode == 1


def test_a_waiting_experiment_is_withdrawn(user):
    user.write(train=HELLO)
    key = user.ok("submit", "train.py").strip()
    assert "off its queue" in user.ok("stop", key)
    assert user.status(key) == "stopped"
    assert user.json("queues")[0]["waiting"] == 0
    assert "over already" in user.ok("stop", key)


def test_a_running_experiment_is_stopped_and_run_again(user):
    user.write(train=SLOW)
    with user.runner():
        key = user.ok("submit", "train.py").strip()
        following = user.begin("logs", "-f", key)
        while "running" not in following.stdout.readline():
            assert following.poll() is None, following.stderr.read()
        assert "running" in user.ok("logs", "--tail", "1", key)
        assert "is stopped" in user.ok("stop", "--wait", key)
        following.communicate(timeout=PATIENCE)
        assert following.returncode == 1
        again = user.ok("rerun", key).strip()
        assert again != key
        until(lambda: user.status(again) == "running")
        user.ok("stop", "--wait", again)
    first, second = user.json("show", key), user.json("show", again)
    assert first["studio_runner"]["reason"] == second["studio_runner"]["reason"] == "stopped"
    assert first["artifacts"]["workspace"] == second["artifacts"]["workspace"]
    assert first["artifacts"]["modeldir"]["qualified"] != second["artifacts"]["modeldir"]["qualified"]


def test_an_unchanged_directory_is_stored_once(user):
    user.write(train=HELLO)
    for _ in range(2):
        user.ok("submit", "train.py")
    blobs = user.home / ".studioml" / "store" / "blobstore"
    assert len(list(blobs.iterdir())) == 1
    user.write(train=HELLO + "# changed\n")
    user.ok("submit", "train.py")
    assert len(list(blobs.iterdir())) == 2


def test_data_goes_along_comes_back_and_is_reused(user, tmp_path):
    data, notes = tmp_path / "data", tmp_path / "notes"
    data.mkdir()
    (data / "numbers").write_text("1 2 3")
    notes.mkdir()
    (notes / "start").write_text("begun")
    user.write(
        first="""
from pathlib import Path
total = sum(map(int, Path("../numbers/numbers").read_text().split()))
Path("../notes/total").write_text(f"{Path('../notes/start').read_text()} {total}")
""",
        second="from pathlib import Path; print('got', Path('../before/total').read_text())",
    )
    key_options = ["--experiment", "first-one"]
    user.ok("run", *key_options, "--capture-once", f"{data}:numbers", "--capture", f"{notes}:notes", "first.py")
    done = user.call("run", "--reuse", "first-one/notes:before", "second.py")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "got begun 6" in done.stdout
    assert (notes / "start").read_text() == "begun"
    assert sorted(path.name for path in notes.iterdir()) == ["start"]


def test_hyperparameters_make_one_experiment_each(user):
    user.write(train="lr = None\nprint('rate', lr)\n")
    keys = user.ok("submit", "--hyperparam", "lr=0.1,0.2", "--experiment", "sweep", "train.py").split()
    assert len(keys) == 2
    assert all(key.startswith("sweep__opt__") for key in keys)
    with user.runner():
        until(lambda: {one["status"] for one in user.json("list", "--project", "hyperparam_sweep")} == {"finished"})
    assert sorted(user.ok("logs", key).splitlines()[-1] for key in keys) == ["rate 0.1", "rate 0.2"]


def test_a_module_is_run_from_the_workspace(user):
    (user.project / "pkg").mkdir()
    (user.project / "pkg" / "__init__.py").touch()
    (user.project / "pkg" / "train.py").write_text("import sys; print(__name__, sys.argv[1:])")
    assert "__main__ ['x y']" in user.ok("run", "pkg::train", "x y")


def test_the_users_configuration_is_honoured(user, tmp_path):
    (user.home / ".studioml").mkdir()
    (user.home / ".studioml" / "config.yaml").write_text(
        f"storage: {{type: local, endpoint: {tmp_path}, bucket: shared}}\n"
        "env: {GREETING: good day}\nresources_needed: {cpus: 1}\nqueue: local_mine\n"
    )
    user.write(train="import os; print(os.environ['GREETING'])")
    assert "good day" in user.ok("run", "train.py")
    assert list((tmp_path / "shared" / "blobstore").iterdir())
    user.ok("submit", "train.py")
    assert user.json("show", "last")["studio_runner"]["queue"] == "local_mine"
    assert user.json("show", "last")["resources_needed"] == {"cpus": 1}


def test_no_secret_of_the_configuration_is_shown(user):
    (user.home / ".studioml").mkdir()
    (user.home / ".studioml" / "config.yaml").write_text("env: {API_TOKEN: hunter22}\n")
    user.write(train="print('quiet')")
    run = user.call("run", "train.py")
    shown = [
        run.stdout,
        run.stderr,
        user.ok("show", "last"),
        user.ok("show", "last", "--json"),
        user.ok("logs", "last"),
    ]
    assert "hunter22" not in "".join(shown)
    records = user.home / ".studioml" / "store" / "db"
    assert not any("hunter22" in path.read_text() for path in records.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "nothing"], 1, "no experiments yet"),
        (["submit", "absent.py"], 2, "no script absent.py"),
        (["submit", "--ram", "much", "train.py"], 2, "--ram"),
        (["submit", "--queue", "rmq_x", "train.py"], 2, "rmq_x"),
        (["submit", "--capture-once", "absent:x", "train.py"], 2, "nothing at"),
        (["submit", "--reuse", "gone/modeldir", "train.py"], 1, "experiments"),
        (["submit", "--hyperparam", "lr", "train.py"], 2, "--hyperparam"),
        (["submit", "--hyperparam", "lr=1", "train.py"], 2, "does not use"),
        (["submit", "--workspace-limit", "5", "train.py"], 2, "The largest in it: train.py"),
        (["submit", "--python", "abc", "train.py"], 2, "pythonver"),
        (["run", "--hyperparam", "lr=1", "train.py"], 2, "one experiment"),
        (["stop", "last"], 1, "no experiments yet"),
        (["run"], 2, "SCRIPT"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(user, arguments, code, message):
    user.write(train="print(1)")
    done = user.call(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert user.json("list") == []


def test_fetch_never_writes_into_what_is_there(user):
    user.write(train=HELLO)
    user.ok("run", "train.py")
    (user.project / "full").mkdir()
    (user.project / "full" / "mine").touch()
    refused = user.call("fetch", "last", "modeldir", "full")
    assert refused.returncode == 2
    assert "not empty" in refused.stderr
    unknown = user.call("fetch", "last", "nothing")
    assert unknown.returncode == 1
    assert "modeldir" in unknown.stderr
    assert not (user.project / "nothing").exists()


def test_a_key_is_used_once(user):
    user.write(train=HELLO)
    user.ok("submit", "--experiment", "mine", "train.py")
    refused = user.call("submit", "--experiment", "mine", "train.py")
    assert refused.returncode == 2
    assert "already" in refused.stderr


@pytest.mark.network
def test_the_active_virtual_environment_is_what_the_experiment_gets(user, tmp_path):
    venv = tmp_path / "venv"
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", venv, "six==1.16.0"], check=True)
    user.write(train="import six; print('six', six.__version__)")
    done = user.call("run", "train.py", VIRTUAL_ENV=str(venv))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "six 1.16.0" in done.stdout
    assert str(venv) in done.stderr
    assert user.json("show", "last")["pythonenv"] == ["six==1.16.0"]


def queued(user):
    """The experiment of the only message on the queue."""
    (message,) = [path for path in (user.home / ".studioml/queue/local_default").iterdir() if path.is_file()]
    return json.loads(message.read_bytes())["experiment"]


def test_a_container_brings_its_own_program(user):
    (user.project / "box/bin").mkdir(parents=True)
    (user.project / "box/bin/sh").symlink_to("/bin/busybox")
    user.ok("submit", "--container", "box")
    experiment = queued(user)
    image = experiment["artifacts"]["_singularity"]
    assert experiment["filename"] is None
    assert (image["mutable"], image["unpack"]) == (False, True)
    assert Path(image["qualified"].removeprefix("file://")).is_file()


def test_a_script_in_a_container_of_a_registry(user):
    user.write(train="print('hello')")
    user.ok("submit", "--container", "docker://python:3.11", "train.py", "--epochs", "2")
    experiment = queued(user)
    assert experiment["filename"] == "train.py"
    assert experiment["args"] == ["--epochs", "2"]
    assert experiment["artifacts"]["_singularity"]["qualified"] == "docker://python:3.11"


@pytest.mark.parametrize("name", ["run", "submit"])
def test_without_a_script_and_without_a_container(user, name):
    done = user.call(name)
    assert done.returncode == 2
    assert "No SCRIPT is named" in done.stderr


def test_an_image_that_is_not_there(user):
    done = user.call("submit", "--container", "none.sif")
    assert done.returncode == 2
    assert "There is no container image at" in done.stderr
