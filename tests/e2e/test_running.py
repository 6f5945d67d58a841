"""How scripts run, what they find, and what comes back of them."""

import json
import os
import re
import signal
import sys
import tarfile
import uuid
from textwrap import dedent

import psutil
import pytest

from studio_runner.process.output import find_gap
from studio_runner.testing import artifact, installation

pytestmark = pytest.mark.usefixtures("all_is_well")

OUTPUT_LIMIT = 100_000
SECRET = "hunter2-of-the-runner"


@pytest.fixture(scope="module")
def place(cache, tmp_path_factory):
    """The daemon's own environment is full of things that are no experiment's business."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "leak.py").write_text("")
    options = ("--output-limit", str(OUTPUT_LIMIT), "--grace", "2s")
    with pytest.MonkeyPatch.context() as patch, installation(cache) as made:
        patch.setenv("PYTHONPATH", str(modules))
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("VIRTUAL_ENV", sys.prefix)
        patch.setenv("PATH", f"{sys.prefix}/bin:{os.environ['PATH']}")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("DEPLOY_TOKEN", SECRET)
        patch.setenv("DATA_HOST", "data.example.org")
        with made.daemon(*options):
            yield made


@pytest.fixture
def run(place):
    """Run a script to its end; its key."""

    def go(script, files=None, **request):
        key = place.submit({"main.py": dedent(script), **(files or {})}, **request)
        place.wait(key)
        return key

    return go


@pytest.fixture
def gate(tmp_path):
    """A file that a script can wait for to vanish: `from gate import wait`."""
    path = tmp_path / "gate"
    path.touch()
    return path


def gated(gate):
    """The module for the workspace."""
    return {
        "gate.py": f"import os, time\ndef wait():\n    while os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n"
    }


# -- output -----------------------------------------------------------------------------------------------------


def test_standard_output_and_error_stay_in_order(run, place):
    key = run("""
        import sys
        for number in range(500):
            print(number, file=(sys.stdout, sys.stderr)[number % 2])
    """)
    assert place.output(key).split() == [str(number) for number in range(500)]


def test_output_can_be_read_while_it_is_written(place, gate, until):
    script = "from gate import wait\nprint('epoch 1')\nwait()\nprint('epoch 2')"
    key = place.submit({"main.py": script, **gated(gate)})
    (live,) = until(lambda: list(place.attempts.glob(f"{key[:20]}*/output/output")))
    until(lambda: "epoch 1\n" in live.read_text())
    gate.unlink()
    assert place.wait(key).ok
    assert place.output(key).endswith("epoch 1\nepoch 2\n")


def test_much_output_is_cut_in_the_middle_and_the_place_is_marked(run, place, told):
    key = run("for number in range(1_000_000): print(number)")
    told(key, "completed")
    stored = place.files(key, "output")["output"]
    gap = find_gap(stored)
    head, tail = stored[: gap.offset].decode(), stored[gap.offset + gap.length :].decode()
    assert len(stored) <= OUTPUT_LIMIT
    assert head.startswith("0\n1\n2\n")
    assert tail.endswith("\n999998\n999999\n")
    first_missing, next_there = int(head.split()[-1]) + 1, int(tail.split()[0])
    assert gap.omitted == sum(len(f"{number}\n") for number in range(first_missing, next_there))


def test_binary_output_is_stored_as_it_is(run, place):
    key = run("import os\nos.write(1, bytes(range(256)) * 8)")
    assert place.files(key, "output")["output"].endswith(bytes(range(256)) * 8)


def test_a_script_that_closes_its_output_runs_on_to_its_end(run, place, told):
    key = run("""
        import os, pathlib, time
        print("before", flush=True)
        os.close(1)
        os.close(2)
        time.sleep(0.5)
        pathlib.Path("../modeldir/model").write_text("trained")
        os._exit(0)
    """)
    told(key, "completed")
    assert place.output(key).endswith("before\n")
    assert place.files(key, "modeldir") == {"model": b"trained"}


def test_a_script_that_asks_for_input_is_told_that_there_is_none(run, place, told):
    key = run("input('really? ')")
    told(key, "script_failed", "exit code 1")
    assert "EOFError" in place.output(key)


# -- how it ends ------------------------------------------------------------------------------------------------


def test_the_exit_code_is_reported(run, place, told):
    key = run("import sys\nprint('no data')\nsys.exit(3)")
    results = told(key, "script_failed", "exit code 3")
    assert (results.exit_code, results.signal) == (3, None)
    assert place.record(key)["studio_runner"]["exit_code"] == 3
    assert "no data\n" in place.output(key)


def test_the_signal_is_reported(run, place, told):
    key = run("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    results = told(key, "script_failed", f"signal {signal.SIGSEGV:d}")
    assert (results.exit_code, results.signal) == (None, signal.SIGSEGV)
    assert place.record(key)["studio_runner"]["signal"] == signal.SIGSEGV


def test_a_failure_of_the_script_is_not_tried_again_and_its_files_come_back(run, place, told, tmp_path):
    tally = tmp_path / "tally"
    key = run(f"""
        open({str(tally)!r}, "a").write("run ")
        open("../modeldir/partial", "w").write("half")
        raise RuntimeError("diverged")
    """)
    assert told(key, "script_failed").attempt == 1
    assert "RuntimeError: diverged" in place.output(key)
    assert place.files(key, "modeldir") == {"partial": b"half"}
    assert tally.read_text() == "run "


def test_nothing_that_a_script_leaves_running_survives_it(run, place, told):
    mark = uuid.uuid4().hex
    key = run(f"""
        import os, subprocess, sys
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)", "{mark}"]
        subprocess.Popen(sleeper)
        subprocess.Popen(sleeper, start_new_session=True)
        subprocess.Popen(["setsid", *sleeper], env={{}}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.chdir("/")
                os.closerange(0, 100)
                os.execv(sys.executable, sleeper)
            os._exit(0)
        print("trained")
    """)
    told(key, "completed")
    assert place.output(key).endswith("trained\n")
    assert not [process for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or ())]


def test_more_memory_than_was_asked_for(run, told):
    key = run(
        """
        import subprocess, sys, time
        subprocess.run([sys.executable, "-c", "import time; hog = bytearray(200_000_000); time.sleep(60)"])
        """,
        resources_needed={"cpus": 1, "ram": "100mb", "hdd": "100mb"},
    )
    results = told(key, "out_of_memory", "100 MB (ram)")
    assert results.signal is None or results.signal == signal.SIGKILL


def test_more_disk_than_was_asked_for(run, place, told):
    key = run(
        """
        import time
        print("writing", flush=True)
        with open("../scratch", "wb") as file:
            for _ in range(40):
                file.write(bytes(1_000_000))
                file.flush()
        time.sleep(60)
        """,
        resources_needed={"cpus": 1, "ram": "100mb", "hdd": "20mb"},
    )
    told(key, "disk_exceeded", "20 MB (hdd)")
    assert "writing\n" in place.output(key)


# -- what it finds ----------------------------------------------------------------------------------------------

SHOW = (
    "import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ), sys.path, sys.prefix, os.getcwd()]))"
)


def shown(place, key):
    return json.loads(place.output(key).splitlines()[-1])


def test_nothing_of_the_runners_own_environment_leaks(run, place):
    key = run(SHOW)
    _, environ, path, prefix, _ = shown(place, key)
    assert SECRET not in json.dumps(environ)
    assert "DATA_HOST" not in environ
    assert not {name for name in environ if name.startswith("PYTHON")} - {"PYTHONUNBUFFERED"}
    assert not [entry for entry in path if "modules" in entry]
    assert environ["VIRTUAL_ENV"] == prefix != sys.prefix
    assert environ["PATH"].split(":")[0] == f"{prefix}/bin"
    assert f"{sys.prefix}/bin" not in environ["PATH"].split(":")


def test_the_experiments_variables(run, place):
    env = {
        "HOST": "%DATA_HOST%:5432",
        "PATH": "%PATH%:./bin",
        "RATE": 0.5,
        "ODD": "100%, %NO_SUCH_VARIABLE%",
        "STOLEN": "%AWS_SECRET_ACCESS_KEY%%DEPLOY_TOKEN%",
    }
    key = run(SHOW, config={"env": env})
    _, environ, _, _, _ = shown(place, key)
    assert environ["HOST"] == "data.example.org:5432"
    assert environ["PATH"].endswith(":./bin")
    assert environ["RATE"] == "0.5"
    assert environ["ODD"] == "100%, %NO_SUCH_VARIABLE%"
    assert environ["STOLEN"] == "%AWS_SECRET_ACCESS_KEY%%DEPLOY_TOKEN%"
    assert environ["PYTHONUNBUFFERED"] == environ["AWS_SDK_LOAD_CONFIG"] == "1"
    assert environ["OMP_NUM_THREADS"] == environ["MKL_NUM_THREADS"] == "1"


def test_arguments_as_clients_quote_them(run, place):
    key = run(SHOW, args=["--rate=0.1", "'a b'", "'it'\"'\"'s'", "$HOME", "*.py", "''", "10", "it's", "`id`;ls"])
    args, _, _, _, _ = shown(place, key)
    assert args == ["--rate=0.1", "a b", "it's", "$HOME", "*.py", "", "10", "it's", "`id`;ls"]


def test_a_module_of_the_workspace(place, told):
    files = {"lab/__init__.py": "", "lab/train.py": SHOW}
    key = place.submit(files, filename="-m", args=["lab.train", "'--name=a b'"])
    told(key, "completed")
    assert shown(place, key)[0] == ["--name=a b"]


def test_a_script_in_a_subdirectory_runs_in_the_workspace(place, told):
    files = {
        "jobs/train.py": "import os\nprint(sorted(os.listdir()))\nimport helper",
        "jobs/helper.py": "print('helped')",
    }
    key = place.submit(files, filename="jobs/train.py")
    told(key, "completed")
    assert place.output(key).endswith("['jobs']\nhelped\n")


def test_artifacts_are_where_the_client_library_looks(run, place):
    key = run("""
        import os
        home, experiment = os.environ["STUDIOML_HOME"], os.environ["STUDIOML_EXPERIMENT"]
        base = os.path.join(home, "experiments", experiment)
        for label in ("workspace", "output", "modeldir", "retval", "tb"):
            assert os.path.isdir(os.path.join(base, label)), label
            assert os.path.samefile(os.path.join(base, label), os.path.join("..", label)), label
        assert os.path.samefile(os.getcwd(), os.path.join(base, "workspace"))
        open(os.path.join(base, "modeldir", "model"), "w").write("by its variables")
    """)
    assert place.results(key).ok, place.output(key)
    assert place.files(key, "modeldir") == {"model": b"by its variables"}


def test_a_mutable_artifact_continues_where_another_experiment_left_it(run, place):
    script = """
        import pathlib
        model = pathlib.Path("../modeldir/model")
        model.write_text((model.read_text() if model.exists() else "") + "epoch ")
    """
    first = run(script)
    key, body = place.request(place.workspace({"main.py": dedent(script)}))
    request = json.loads(body)
    request["experiment"]["artifacts"]["modeldir"] = artifact(place.stored(first, "modeldir"), mutable=True)
    place.publish(json.dumps(request).encode())
    assert place.wait(key).ok
    assert place.files(first, "modeldir") == {"model": b"epoch epoch "}


def test_an_immutable_file_is_placed_as_it_is(run, place):
    data = place.store / "data.csv"
    data.write_text("1,2,3\n")
    key, body = place.request(place.workspace({"main.py": "print(open('../table/data.csv').read())"}))
    request = json.loads(body)
    request["experiment"]["artifacts"]["table"] = {**artifact(data, mutable=False), "unpack": False}
    place.publish(json.dumps(request).encode())
    assert place.wait(key).ok
    assert "1,2,3\n" in place.output(key)


# -- what comes back while it runs ------------------------------------------------------------------------------


def test_checkpoints_are_there_while_the_script_runs(place, gate, until):
    script = """
        import pathlib
        from gate import wait
        pathlib.Path("../modeldir/model").write_text("epoch 1")
        print("epoch 1")
        wait()
        pathlib.Path("../modeldir/model").write_text("epoch 2")
    """
    key = place.submit({"main.py": dedent(script), **gated(gate)}, config={"saveWorkspaceFrequency": "1s"})
    until(place.stored(key, "modeldir").exists)
    until(place.stored(key, "output").exists)
    until(lambda: place.files(key, "modeldir") == {"model": b"epoch 1"})
    until(lambda: "epoch 1\n" in place.output(key))
    assert not place.stored(key, "_results").exists()
    first = until(lambda: place.record(key).get("time_last_checkpoint"))
    stored = place.stored(key, "modeldir").stat()
    until(lambda: place.record(key)["time_last_checkpoint"] > first)
    assert place.stored(key, "modeldir").stat().st_mtime_ns == stored.st_mtime_ns, "nothing had changed"
    assert place.record(key)["status"] == "running"
    gate.unlink()
    assert place.wait(key).ok
    assert place.files(key, "modeldir") == {"model": b"epoch 2"}


def test_an_artifact_has_its_own_checkpoint_period(place, gate, until):
    script = """
        import pathlib
        from gate import wait
        pathlib.Path("../tb/events").write_text("loss")
        pathlib.Path("../modeldir/model").write_text("large")
        wait()
    """
    config = {"saveWorkspaceFrequency": "1h"}
    key, body = place.request(place.workspace({"main.py": dedent(script), **gated(gate)}), config=config)
    request = json.loads(body)
    request["experiment"]["artifacts"]["tb"]["saveFrequency"] = 1
    place.publish(json.dumps(request).encode())
    until(place.stored(key, "tb").exists)
    assert not place.stored(key, "modeldir").exists()
    gate.unlink()
    assert place.wait(key).ok
    assert place.files(key, "modeldir") == {"model": b"large"}


def test_samples_of_what_the_experiment_uses(place, gate, until):
    script = """
        import os, subprocess, sys
        from gate import wait
        open("../modeldir/model", "wb").write(bytes(5_000_000))
        hog = bytearray(50_000_000)
        child = subprocess.Popen([sys.executable, "-c", "from gate import wait; wait()"])
        wait()
        child.wait()
    """
    config = {"saveMetricsFrequency": "200ms", "saveWorkspaceFrequency": "1s"}
    key = place.submit({"main.py": dedent(script), **gated(gate)}, config=config)
    until(place.stored(key, "_metrics").exists)
    until(lambda: b'"processes": 2' in place.files(key, "_metrics").get("attempt-1.jsonl", b""))
    gate.unlink()
    assert place.wait(key).ok
    samples = [json.loads(line) for line in place.files(key, "_metrics")["attempt-1.jsonl"].splitlines()]
    fullest = max(samples, key=lambda sample: sample["memory"])
    assert fullest["memory"] > 50_000_000
    assert fullest["disk"] > 5_000_000
    assert fullest["cpu_seconds"] > 0
    assert [sample["time"] for sample in samples] == sorted(sample["time"] for sample in samples)
    assert place.ended(key)["studio_runner"]["peak_memory"] > 50_000_000


# -- metadata ---------------------------------------------------------------------------------------------------

DIRECTIVES = """
import json
print("epoch 1")
print(json.dumps({"loss": 0.5, "model": {"layers": 3}}))
print("  " + json.dumps({"loss": 0.25, "model": {"units": 64}}) + "  ")
print(json.dumps([{"op": "add", "path": "/scores", "value": [1]}, {"op": "add", "path": "/scores/-", "value": 2}]))
print(json.dumps([{"op": "replace", "path": "/studioml/experiment/key", "value": "stolen"}]))
print(json.dumps({"studioml": {"host": "stolen"}}))
print(json.dumps([{"op": "add", "path": "/studioml/mine", "value": "kept"}]))
print("{not json}")
"""


def metadata(place, key):
    (path,) = (place.store / "experiments" / key / "metadata").iterdir()
    assert re.fullmatch(r"scrape-host-[A-Za-z0-9._-]+-[0-9A-Za-z]{6}\.json", path.name)
    return json.loads(path.read_bytes())


def test_json_lines_of_the_output_make_the_metadata_document(run, place):
    document = metadata(place, key := run(DIRECTIVES))
    assert document["loss"] == 0.25
    assert document["model"] == {"layers": 3, "units": 64}
    assert document["scores"] == [1, 2]
    ours = document["studioml"]
    assert ours["experiment"]["key"] == key
    assert ours["host"] == place.results(key).host
    assert ours["mine"] == "kept"
    assert ours["artifacts"]["workspace"].startswith("file:///")
    assert ours["load_time"] <= ours["start_time"] <= ours["stop_time"]
    assert ours["pipdeptree"] == []
    assert ours["log"] == []
    assert ours["scrape"]["refused"] == 2


def test_every_other_line_goes_into_the_log_when_that_is_wanted(cache):
    with installation(cache) as place, place.daemon("--schema-logs"):
        key = place.submit({"main.py": DIRECTIVES})
        assert place.wait(key).ok
        document = metadata(place, key)
    assert document["loss"] == 0.25
    log = document["studioml"]["log"]
    assert [entry["msg"] for entry in log] == ["epoch 1", "{not json}"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["ts"]) for entry in log)


# -- the machine's shares, and its troubles ---------------------------------------------------------------------


def test_experiments_that_fit_run_side_by_side_and_others_wait(cache, until, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    together = f"""
        import os, pathlib, time
        pathlib.Path({str(meeting)!r}, os.environ["ME"]).touch()
        while len(os.listdir({str(meeting)!r})) < 2:
            time.sleep(0.01)
    """
    alone = f"""
        import os
        print(sorted(os.listdir({str(meeting)!r})))
    """
    half = {"cpus": 1, "ram": "40mb", "hdd": "1mb"}
    whole = {"cpus": 1, "ram": "100mb", "hdd": "1mb"}
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two experiments side by side need two cores")
    with installation(cache) as place:
        first = place.submit({"main.py": dedent(together)}, resources_needed=half, config={"env": {"ME": "a"}})
        large = place.submit({"main.py": dedent(alone)}, resources_needed=whole)
        second = place.submit(
            {"main.py": dedent(together)}, resources_needed=half, config={"env": {"ME": "b"}}, max_duration="5m"
        )  # over before the first one is at the latest, so it may pass the large one
        with place.daemon("--max-mem", "100mb"):
            assert all(place.wait(key).ok for key in (first, second, large))
        assert place.output(large).endswith("['a', 'b']\n")


def test_a_share_is_free_again_whatever_became_of_its_experiment(place):
    everything = {"cpus": len(os.sched_getaffinity(0)) - 1 or 1, "ram": "100mb", "hdd": "100mb"}
    ends = ["raise SystemExit(1)", "import os; os.kill(0, 9)", "import os; os.kill(os.getpid(), 11)", "print()"]
    keys = [place.submit({"main.py": script}, resources_needed=everything) for script in ends * 2]
    keys += [place.submit({}, resources_needed=everything) for _ in range(2)]
    reasons = [place.ended(key)["studio_runner"]["reason"] for key in keys]
    assert reasons == 2 * ["script_failed", "script_failed", "script_failed", "completed"] + 2 * [
        "artifact_invalid"
    ]


@pytest.fixture
def blocked(place):
    """A file where the store needs a directory; removing it mends the store."""
    path = place.store / "away"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    yield path
    if path.is_file():
        path.unlink()


def to_blocked_store(place, blocked):
    """A request whose model cannot be stored as long as the store is blocked."""
    script = "open('../modeldir/model', 'w').write('trained')"
    key, body = place.request(place.workspace({"main.py": script}))
    request = json.loads(body)
    request["experiment"]["artifacts"]["modeldir"] = artifact(blocked / "modeldir.tar", mutable=True)
    return key, json.dumps(request).encode()


def test_trouble_with_the_store_delays_an_experiment_and_is_told(place, blocked, until):
    key, body = to_blocked_store(place, blocked)
    place.publish(body)
    until(place.delayed)
    record = place.record(key)
    assert record["status"] == "waiting"
    assert record["studio_runner"]["reason"] == "storage_unavailable"
    assert "modeldir" in record["studio_runner"]["sentence"]
    assert not place.stored(key, "_results").exists()

    blocked.unlink()
    results = place.wait(key)
    assert (results.reason, results.attempt) == ("completed", 2)
    with tarfile.open(blocked / "modeldir.tar") as archive:
        assert archive.extractfile("model").read() == b"trained"


def test_trouble_that_does_not_pass_ends_with_the_dead_letters(cache, until):
    with installation(cache) as place, place.daemon("--deliveries", "1"):
        place.store.mkdir(parents=True, exist_ok=True)
        blocked = place.store / "away"
        blocked.write_text("")
        key, body = to_blocked_store(place, blocked)
        place.publish(body)
        (letter,) = until(place.dead_letters)
        assert letter["body"] == body
        assert letter["attempts"] == 1
        assert letter["reason"].startswith("storage_unavailable: ")
        assert "modeldir" in letter["reason"]
        assert place.results(key).reason == "storage_unavailable"
        assert place.ended(key)["studio_runner"]["reason"] == "storage_unavailable"
        assert "[studio-runner] storage_unavailable: " in place.output(key)
