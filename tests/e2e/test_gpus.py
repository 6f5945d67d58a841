"""A runner with GPUs: the installed command over a stand-in for NVIDIA's library."""

import json
import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from studio_runner.testing import command_path
from studio_runner.testing.nvml import GB, FakeCard, FakeInstance, fake_nvml

PATIENCE = 120

COMPUTE = """
import json, os, pathlib, sys, time
fake, size, gate, leak = sys.argv[1:5]
names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES")
uuids = [uuid for uuid in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if uuid != "-1"]
for uuid in uuids:
    pathlib.Path(fake, uuid, str(os.getpid())).write_text(size)
    if leak:
        pathlib.Path(fake, uuid, "leak").write_text(leak)
print(json.dumps({name: os.environ.get(name) for name in names}), flush=True)
while gate and os.path.exists(gate):
    time.sleep(0.01)
"""
"""Has memory on its cards until the gate is gone, and may leave some behind."""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A large card, two small ones that are alike, and one that is divided in two."""
    parts = [FakeInstance("3g.20gb", 20 * GB, 3, ids=(1, 0)), FakeInstance("3g.20gb", 20 * GB, 3, ids=(2, 0))]
    cards = [
        FakeCard("NVIDIA A100-SXM4-80GB", 80 * GB, used=GB // 2, ecc=True),
        FakeCard("Tesla T4", 16 * GB, used=GB // 4, utilisation=93),
        FakeCard("Tesla T4", 16 * GB, used=GB // 4),
        FakeCard("NVIDIA A100-SXM4-40GB", 40 * GB, mig=True, instances=parts),
    ]
    made = fake_nvml(tmp_path / "driver", cards)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def uuids(driver):
    """Of the large card, the two small ones, and the two instances."""
    with driver.change() as (large, one, other, divided):
        return large.uuid, one.uuid, other.uuid, *(instance.uuid for instance in divided.instances)


beside = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two experiments side by side need two cores")


class Site:
    """A daemon over the driver, and what it is given to do."""

    def __init__(self, place, driver, until):
        self.place, self.driver, self.until = place, driver, until
        self.gates = 0

    def submit(self, *, leak="", config=None, gated=False, size=2 * GB, **resources):
        self.gates += 1
        gate = self.place.home / f"gate{self.gates}"
        if gated:
            gate.touch()
        arguments = [str(self.driver.directory), str(size), str(gate) if gated else "''", str(leak) or "''"]
        needed = {"cpus": 1, "ram": "200mb", "hdd": "100mb", **resources}
        return self.place.submit({"main.py": COMPUTE}, args=arguments, resources_needed=needed, config=config), gate

    def sees(self, key):
        """The variables, once it runs."""

        def look():
            try:
                directory = self.place.record(key)["studio_runner"]["directory"]
                text = Path(directory, "output", "output").read_text()
            except (OSError, KeyError, TypeError):
                return None
            return re.search(r"^\{.*\}$", text, re.MULTILINE)

        return json.loads(self.until(look)[0])

    def cards(self, key):
        return self.sees(key)["CUDA_VISIBLE_DEVICES"].split(",")

    def http(self):
        address = self.until(lambda: re.findall(r" at (http://\S+)/", self.place.log()))[-1]
        return httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False)

    def gpus(self):
        with self.http() as http:
            return {gpu["uuid"]: gpu for gpu in http.get("/api/v1/runner").json()["gpus"]}

    def figures(self):
        with self.http() as http:
            text = http.get("/metrics").text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "gpu" in sample.name
        }


@pytest.fixture
def site(place, driver, until):
    return Site(place, driver, until)


@pytest.fixture
def start(place):
    """A daemon with short times, which the test need not wait out."""

    def starting(*options):
        times = ("--gpu-settling", "500ms", "--gpu-look", "50ms", "--gpu-probation", "1h")
        return place.daemon("--http-address", "127.0.0.1:0", *times, *options)

    return starting


@beside
def test_experiments_have_cards_of_their_own_and_see_no_others(site, start, uuids):
    large, one, other, *_ = uuids
    with start():
        both, gate = site.submit(gpuCount="2", gpus="1", gpuMem="4gb", gated=True)
        single, other_gate = site.submit(gpus=1, gpuMem="4gb", gated=True)
        assert site.sees(both) == {
            "CUDA_VISIBLE_DEVICES": f"{one},{other}",
            "NVIDIA_VISIBLE_DEVICES": f"{one},{other}",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "ROCR_VISIBLE_DEVICES": "-1",
        }
        (instance,) = site.cards(single)
        assert instance in uuids[3:]  # the smallest that is left
        gpus = site.gpus()
        assert gpus[one]["experiments"] == gpus[other]["experiments"] == [both]
        assert gpus[instance]["experiments"] == [single]
        assert gpus[instance]["profile"] == "3g.20gb"
        assert {uuid for uuid, gpu in gpus.items() if gpu["state"] == "in_use"} == {one, other, instance}
        assert gpus[large]["slots"] == 24
        figures = site.figures()
        assert figures["studio_runner_capacity_gpus",] == 5
        assert figures["studio_runner_reserved_gpus",] == 3
        assert figures["studio_runner_gpu_reserved", ("experiment", both), ("gpu", one), ("name", "Tesla T4")] == 1
        gate.unlink()
        other_gate.unlink()
        without, _ = site.submit(gpuMem="4gb")
        assert site.place.wait(without).ok
        assert site.place.wait(both).ok
        assert json.loads(site.place.output(without).splitlines()[-1])["CUDA_VISIBLE_DEVICES"] == "-1"
        site.until(lambda: {gpu["state"] for gpu in site.gpus().values()} == {"free"})
    reserved = site.place.record(both)["studio_runner"]["attempts"][-1]["reserved"]
    assert reserved["cores"] == 1
    assert reserved["gpus"] == [{"uuid": one, "name": "Tesla T4"}, {"uuid": other, "name": "Tesla T4"}]
    shown = subprocess.run(
        [command_path(), "show", both], env=site.place.environment(), capture_output=True, text=True, check=True
    )
    assert re.search(rf"reserved +1 core, 200 MB memory, 100 MB disk, Tesla T4 \({one}\)", shown.stdout)


def test_what_an_experiment_uses_of_its_cards_is_in_its_metrics(site, start, uuids):
    with start():
        key, gate = site.submit(gpus=4, config={"saveMetricsFrequency": "50ms"}, gated=True, size=3 * GB)
        assert site.cards(key) == [uuids[1]]
        metrics = site.place.attempts / site.place.record(key)["studio_runner"]["directory"] / "_metrics"
        site.until(lambda: any(path.stat().st_size for path in metrics.glob("*.jsonl")))
        gate.unlink()
        assert site.place.wait(key).ok
    (lines,) = site.place.files(key, "_metrics").values()
    (gpu,) = json.loads(lines.splitlines()[-1])["gpus"]
    assert (gpu["uuid"], gpu["name"], gpu["memory"], gpu["memory_total"]) == (uuids[1], "Tesla T4", 3 * GB, 16 * GB)
    assert gpu["utilisation"] == 93
    assert gpu["temperature"] > 0


def test_a_card_that_stays_dirty_is_set_aside_and_comes_back(site, start, uuids):
    one, other = uuids[1:3]
    with start():
        leaving, _ = site.submit(gpuCount=2, leak=GB)
        assert site.place.wait(leaving).ok
        waiting, _ = site.submit(gpuCount=2, gpuMem="10gb", gpus=8)
        site.until(lambda: all(site.gpus()[uuid]["state"] == "set_aside" for uuid in (one, other)))
        gpus = site.gpus()
        assert "1.25 GB of its memory are in use" in gpus[one]["trouble"]
        figures = site.figures()
        assert figures["studio_runner_gpus", ("state", "set_aside")] == 2
        assert sum(name[0] == "studio_runner_gpu_set_aside" for name in figures) == 2
        with site.http() as http:
            page = http.get("/").text
        assert "set aside" in page
        assert "1.25 GB of its memory are in use" in page
        assert len(site.place.waiting()) == 1
        for uuid in (one, other):
            (site.driver.directory / uuid / "leak").unlink()
        assert site.place.wait(waiting).ok
        assert f"GPU 1 (Tesla T4, {one}) is set aside" in site.place.log()
        assert f"GPU 1 (Tesla T4, {one}) is well again" in site.place.log()


def test_a_fault_while_an_experiment_runs_is_said_in_its_output(site, start, uuids):
    large = uuids[0]
    with start():
        key, gate = site.submit(gpus=20, gated=True)
        assert site.cards(key) == [large]
        site.driver.report_xid(large, 13)  # a program's own mistake
        site.driver.report_xid(large, 79)
        site.until(lambda: site.gpus()[large]["state"] == "set_aside")
        assert site.gpus()[large]["experiments"] == [key]
        gate.unlink()
        assert site.place.wait(key).ok
        (note,) = [line for line in site.place.output(key).splitlines() if "Xid" in line]
        assert note == f"[studio-runner] GPU 0 (NVIDIA A100-SXM4-80GB, {large}): the driver reported Xid 79"
        assert site.gpus()[large]["state"] == "set_aside"


def test_memory_errors_set_a_card_aside_until_it_is_reset(site, start, driver, uuids):
    with driver.change() as cards:
        cards[0].uncorrected = 2
    with start():
        key, _ = site.submit(gpus=20)
        site.until(lambda: site.gpus()[uuids[0]]["state"] == "set_aside")
        assert "2 uncorrected memory errors (ECC)" in site.gpus()[uuids[0]]["trouble"]
        assert not site.place.claimed()
        with driver.change() as cards:
            cards[0].uncorrected = 0
        assert site.place.wait(key).ok


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"gpus": 1000}, "1000 GPU slots wanted, at most 32 here"),
        ({"gpus": "1", "gpuMem": "200gb"}, "GPUs with 200 GB wanted (gpuMem), the largest here has 80 GB"),
        ({"gpuCount": "9"}, "9 GPUs wanted, 3 here (of 2 MIG instances an experiment can use one)"),
    ],
)
def test_what_no_card_here_can_do_is_left_to_others_and_said(site, start, resources, words):
    with start():
        site.submit(**resources)
        site.until(lambda: words in site.place.log())
        possible, _ = site.submit(gpus="1", gpuCount=None, gpuMem="")
        assert site.place.wait(possible).ok
        assert len(site.place.waiting()) == 1


@beside
def test_cards_are_shared_where_the_operator_says_so(site, start, uuids):
    with start("--gpu-fractions", "2"):
        first, gate = site.submit(gpus=2, gpuMem="8gb", gated=True)
        second, other_gate = site.submit(gpus=2, gpuMem="8gb", gated=True)
        assert site.cards(first) == site.cards(second) == [uuids[1]]
        assert sorted(site.gpus()[uuids[1]]["experiments"]) == sorted([first, second])
        gate.unlink()
        other_gate.unlink()
        assert site.place.wait(first).ok
        assert site.place.wait(second).ok
    reserved = site.place.record(first)["studio_runner"]["attempts"][-1]["reserved"]
    assert reserved["gpu_fraction"] == 2


def test_the_runners_own_list_of_cards_is_respected(site, start, uuids, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"2,{uuids[3][:12]},17,0")
    with start():
        assert list(site.gpus()) == [uuids[2], uuids[3]]
        key, gate = site.submit(gpus=1, gated=True)
        assert site.cards(key) == [uuids[2]]
        gate.unlink()
        assert site.place.wait(key).ok


def test_a_runner_for_processors_alone_does_not_ask_the_driver(site, start, driver):
    with start("--cpu-only"):
        key, _ = site.submit(gpus=1, gpuMem="4gb")
        assert site.place.wait(key).ok
        assert json.loads(site.place.output(key).splitlines()[-1])["CUDA_VISIBLE_DEVICES"] == "-1"
        assert site.gpus() == {}
    assert not driver.begun


def test_the_cards_are_free_again_after_the_runner_was_killed(site, start, uuids):
    with start() as daemon:
        key, _ = site.submit(gpus=20, gated=True)
        assert site.cards(key) == [uuids[0]]
        daemon.kill()
        daemon.wait()
    with start():
        site.until(lambda: site.place.log().count(" at http") == 2)
        site.until(lambda: site.gpus()[uuids[0]]["experiments"] == [key])
        (site.place.home / "gate1").unlink()
        assert site.place.wait(key).ok


def findings(place, *arguments, check=None):
    done = subprocess.run(
        [command_path(), *arguments, "--json"],
        env=place.environment(),
        capture_output=True,
        input=check,
        timeout=PATIENCE,
        check=False,
    )
    found = json.loads(done.stdout)
    return found if isinstance(found, list) else found["findings"]


def about(found, subject):
    return [one for one in found if subject in one["subject"]]


def test_doctor_tells_of_every_card(place, driver, uuids):
    with driver.change() as cards:
        cards[1].processes[4242] = GB
        cards[2].name = "Voodoo 2"
        cards.append(FakeCard("Tesla T4", 16 * GB, lost=True))
    found = findings(place, "doctor")
    lost, summary = about(found, "GPUs")
    assert (lost["state"], lost["sentence"]) == ("problem", "GPU 4: the driver says: GPU is lost")
    assert "NVIDIA driver" in summary["sentence"]
    (large,), (busy,), (unknown,) = (about(found, uuid) for uuid in uuids[:3])
    assert (large["state"], large["sentence"]) == ("ok", "24 slots, 80 GB, ECC on")
    assert busy["state"] == "warning"
    assert "process 4242 computes on it" in busy["sentence"]
    assert unknown["state"] == "warning"
    assert "--gpu-slots 'Voodoo 2=N'" in unknown["mend"]
    (sharing,) = about(findings(place, "doctor", "--gpu-fractions", "3"), uuids[0])
    assert "for up to 3 experiments" in sharing["sentence"]
    assert "not used" in about(findings(place, "doctor", "--cpu-only"), "GPUs")[0]["sentence"]


def test_check_tells_which_cards_a_message_would_get_and_why_it_gets_none(place, driver, uuids):
    def told(*options, **resources):
        _, body = place.request(place.workspace({"main.py": ""}), resources_needed={"cpus": 1, **resources})
        found = findings(place, "check", "-", *options, check=body)
        return [(one["state"], one["sentence"]) for one in found if one["subject"] in ("GPUs", "resources")]

    assert told(gpus=1)[1] == ("ok", f"on an idle machine it would get GPU 1 (Tesla T4, {uuids[1]})")
    assert told(gpus="40", gpuCount="1")[0][1].endswith("40 GPU slots wanted on 1 GPU, at most 24 here")
    assert told(gpus=1, gpuMem="500GB")[0][0] == "problem"
    assert "runs without" in told("--cpu-only", gpus=1)[1][1]
    with driver.change() as cards:
        cards[0].uncorrected = 1
    state, sentence = told(gpus=20)[1]
    assert state == "warning"
    assert "it has to wait" in sentence
    assert "1 uncorrected memory error (ECC)" in sentence


def test_a_message_that_is_run_at_once_has_its_cards_or_is_told_that_it_has_none(place, driver, uuids):
    def executed(**resources):
        arguments = [str(driver.directory), "1000", "''", "''"]
        files = place.workspace({"main.py": COMPUTE})
        _, body = place.request(files, args=arguments, resources_needed={"cpus": 1, **resources})
        return subprocess.run(
            [command_path(), "exec", "-"],
            env=place.environment(),
            capture_output=True,
            input=body,
            timeout=PATIENCE,
            check=True,
        )

    assert f'"CUDA_VISIBLE_DEVICES": "{uuids[0]}"' in executed(gpus=24).stdout.decode()
    done = executed(gpus=1000)
    assert '"CUDA_VISIBLE_DEVICES": "-1"' in done.stdout.decode()
    assert "without the GPUs that it asks for: 1000 GPU slots wanted, at most 32 here" in done.stderr.decode()
