"""What is wrong with a request ends it with a clear reason where people look, and harms nobody else."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from contextlib import suppress

import pytest

from studio_runner.testing import artifact, installation

pytestmark = pytest.mark.usefixtures("all_is_well")


@pytest.fixture(scope="module")
def place(cache):
    with installation(cache) as made, made.daemon("--grace", "2s"):
        yield made


HELLO = {"main.py": "print('hello')"}


def changed(body, **fields):
    """The request with other values in `experiment`; None leaves a field out."""
    request = json.loads(body)
    for name, value in fields.items():
        request["experiment"][name] = value
        if value is None:
            del request["experiment"][name]
    return json.dumps(request).encode()


# What is no request at all, or not quite: the change that makes it so, and what the reason says.
UNREADABLE = {
    "cut short": (lambda body: body[:100], "not JSON"),
    "not JSON": (lambda body: b"train, please", "not JSON"),
    "not UTF-8": (lambda body: body.replace(b"guest", b"gu\xffst"), "UTF-8"),
    "empty": (lambda body: b"", "not JSON"),
    "no object": (lambda body: b"[1, 2]", "$: found an array"),
    "no experiment": (lambda body: b"{}", "$.experiment: found nothing"),
    "no key": (lambda body: changed(body, key=None), "$.experiment.key: found nothing"),
    "no workspace": (lambda body: changed(body, artifacts={}), "$.experiment.artifacts.workspace: found nothing"),
    "deep": (lambda body: b'{"experiment": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "levels"),
    "args no list": (lambda body: changed(body, args="--fast"), "$.experiment.args"),
    "args of lists": (lambda body: changed(body, args=["1", ["2"]]), "$.experiment.args[1]"),
    "version": (lambda body: changed(body, pythonver="latest"), '$.experiment.pythonver: found "latest"'),
    "size": (lambda body: changed(body, resources_needed={"ram": "lots"}), "$.experiment.resources_needed.ram"),
    "negative": (lambda body: changed(body, resources_needed={"cpus": -1}), "$.experiment.resources_needed.cpus"),
    "enormous": (lambda body: changed(body, resources_needed={"hdd": "1e30tb"}), "$.experiment.resources_needed.hdd"),
    "script outside": (lambda body: changed(body, filename="../../x.py"), "$.experiment.filename"),
    "key outside": (lambda body: changed(body, key="../../x"), "$.experiment.key"),
}  # fmt: skip


def test_what_cannot_be_read_is_set_aside_with_the_reason(place, until):
    published = {}
    for name, (change, _) in UNREADABLE.items():
        _, body = place.request(place.workspace(HELLO))
        published[change(body)] = name
        place.publish(change(body))
    until(lambda: {letter["body"] for letter in place.dead_letters()} >= published.keys())

    letters = {published.get(letter["body"]): letter for letter in place.dead_letters()}
    for name, (_, words) in UNREADABLE.items():
        assert letters[name]["reason"].startswith("invalid_message: "), name
        assert words in letters[name]["reason"], name
        assert letters[name]["attempts"] == 1, name


def test_of_a_request_with_a_mistake_the_record_tells(place):
    key, body = place.request(place.workspace(HELLO), args="--fast")
    place.publish(body)
    record = place.ended(key)
    assert record["status"] == "finished"
    assert record["studio_runner"]["reason"] == "invalid_message"
    assert "$.experiment.args" in record["studio_runner"]["sentence"]


def test_a_message_beyond_all_bounds_is_not_read(place, until):
    incoming = place.queue_root / "local_test" / ".large"
    with incoming.open("wb") as file:
        file.truncate((64 << 20) + 1)
    incoming.rename(incoming.with_name("large"))
    (letter,) = until(lambda: [found for found in place.dead_letters() if len(found["body"]) > 64 << 20])
    assert "67108865 bytes" in letter["reason"]


def test_a_message_that_killed_its_runner_each_time_is_set_aside(place, until):
    key, body = place.request(place.workspace(HELLO))
    incoming = place.queue_root / "local_test" / ".poison"
    incoming.write_bytes(body)
    incoming.rename(incoming.with_name("poison~tried5"))

    results = place.wait(key)
    (letter,) = until(lambda: [found for found in place.dead_letters() if found["body"] == body])

    assert results.reason == "system_error"
    assert "died in each of 5 attempts" in results.sentence
    assert "died in each of 5 attempts" in letter["reason"]
    assert "hello" not in place.output(key)


@pytest.mark.parametrize(
    ("reason", "transient", "runs"),
    [
        ("completed", False, False),
        ("environment_failed", False, False),
        ("system_error", False, True),
        ("unauthorised", False, True),
        ("environment_failed", True, True),
    ],
)
def test_what_was_set_aside_and_put_back_runs_again_and_what_is_done_does_not(place, reason, transient, runs):
    key, body = place.request(place.workspace(HELLO))
    message = "ok" if reason == "completed" else reason
    results = {"exit_msg": message, "reason": reason, "attempt": 5, "experiment_id": key, "transient": transient}
    fence = place.stored(key, "_results").with_name("_attempt.json")
    fence.parent.mkdir(parents=True, exist_ok=True)
    fence.write_text(json.dumps({"message": hashlib.sha256(body).hexdigest(), "results": results}))
    incoming = place.queue_root / "local_test" / f".{key}"
    incoming.write_bytes(body)
    incoming.rename(incoming.with_name(f"{key}~tried1"))  # somebody may have had it before

    assert place.wait(key).ok is (runs or reason == "completed")
    assert place.stored(key, "output").exists() is runs


def test_an_unknown_python(place, told):
    key = place.submit(HELLO, pythonver="4.7")
    told(key, "environment_failed", "4.7")


@pytest.mark.network
def test_a_package_that_nobody_has(place, told):
    key = place.submit(HELLO, pythonenv=["six==1.16.0", "studio-runner-has-no-such-package==1.0"])
    told(key, "environment_failed", "studio-runner-has-no-such-package")
    assert "hello" not in place.output(key)


@pytest.mark.network
def test_pins_that_contradict_each_other_install(place, told):
    script = "from importlib.metadata import version; print(version('requests'), version('urllib3'))"
    pins = ["requests==2.31.0", "urllib3==1.20", "idna==3.4", "certifi==2023.7.22", "charset-normalizer==3.2.0"]
    key = place.submit({"main.py": script}, pythonenv=pins)
    told(key, "completed")
    assert place.output(key).endswith("2.31.0 1.20\n")
    assert "without resolving dependencies" in place.output(key)


def test_a_missing_script(place, told):
    key = place.submit({"train.py": "print('hello')", "data.csv": ""}, filename="main.py")
    told(key, "artifact_invalid", "no file main.py", "data.csv, train.py")


def test_a_request_without_a_script(place, told):
    key = place.submit(HELLO, filename=None)
    told(key, "artifact_invalid", "names no script")


def test_a_missing_workspace(place, told):
    workspace = place.workspace({"main.py": "print('this one is deleted')"})
    workspace.unlink()
    key, body = place.request(workspace)
    place.publish(body)
    told(key, "artifact_missing", "workspace", str(workspace))


def test_a_missing_data_set(place, told):
    missing = artifact(place.store / "nowhere.tar", mutable=False)
    key, body = place.request(place.workspace(HELLO))
    request = json.loads(body)
    request["experiment"]["artifacts"]["dataset"] = missing
    place.publish(json.dumps(request).encode())
    told(key, "artifact_missing", "dataset", "nowhere.tar")


def test_a_store_that_nobody_knows(place, told):
    key, body = place.request(place.workspace(HELLO))
    request = json.loads(body)
    request["experiment"]["artifacts"]["dataset"] = {"qualified": "gopher://host/data.tar", "mutable": False}
    place.publish(json.dumps(request).encode())
    record = place.ended(key)
    assert record["studio_runner"]["reason"] == "artifact_invalid"
    assert "gopher://" in record["studio_runner"]["sentence"]


def archive(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, content, link in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            out.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


GOOD = archive(("main.py", b"print('hello')\n" * 2000, None))
DAMAGED = {
    "no archive": (b"#!/bin/sh\necho this is no archive\n" * 40, "workspace"),
    "empty": (b"", "workspace"),
    "cut short": (GOOD[:9000], "workspace"),
    "damaged": (GOOD[:100] + b"????" * 100 + GOOD[500:], "workspace"),
    "climbing": (archive(("../../../outside", b"x", None)), "leads out of its directory"),
    "absolute": (archive(("/tmp/studio-runner-outside", b"x", None)), "absolute name"),
    "through a link": (archive(("a", b"", "/tmp"), ("a/studio-runner-outside", b"x", None)), "which is outside"),
}


@pytest.mark.parametrize(("content", "words"), DAMAGED.values(), ids=DAMAGED)
def test_an_archive_that_cannot_be_used(place, told, content, words):
    key, body = place.request(place.workspace(HELLO))
    workspace = place.store / "blobstore" / f"{key}.tar"
    workspace.write_bytes(content)
    request = json.loads(body)
    request["experiment"]["artifacts"]["workspace"] = artifact(workspace, mutable=False)
    place.publish(json.dumps(request).encode())
    told(key, "artifact_invalid", "workspace", words)
    assert not os.path.exists("/tmp/studio-runner-outside")
    assert not (place.home / "outside").exists()
    assert not (place.home / "runner" / "outside").exists()


def test_a_workspace_that_is_not_what_the_sender_packed(place, told):
    key, body = place.request(place.workspace(HELLO))
    request = json.loads(body)
    request["experiment"]["artifacts"]["workspace"]["hash"] = "0" * 64
    place.publish(json.dumps(request).encode())
    told(key, "artifact_invalid", "workspace")


def test_an_archive_larger_than_the_disk_that_was_asked_for(place, told):
    key = place.submit({**HELLO, "zeros": bytes(3_000_000)}, resources_needed={"hdd": "2mb"})
    told(key, "disk_exceeded", "workspace", "2,000,000 were asked for (hdd)")


def test_arguments_that_no_program_can_be_given(place, until):
    key = place.submit(HELLO, args=["x" * 200_000])
    assert place.ended(key)["studio_runner"]["reason"] == "invalid_message"
    (letter,) = until(lambda: [found for found in place.dead_letters() if key.encode() in found["body"]])
    assert "$.experiment.args" in letter["reason"]
    assert place.results(key).sentence in letter["reason"]
    assert "[studio-runner] invalid_message: $.experiment.args" in place.output(key)


def test_what_can_never_fit_is_left_to_others_and_said_once(place, until):
    key = place.submit(HELLO, resources_needed={"cpus": 1, "ram": "900tb", "hdd": "1mb"})
    until(lambda: key in place.log())
    for _ in range(3):  # the queue goes on, and comes by the giant each time
        assert place.wait(place.submit(HELLO)).ok
    (giant,) = [path for path in place.waiting() if key.encode() in path.read_bytes()]
    lines = [line for line in place.log().splitlines() if key in line]
    giant.unlink()
    assert len(lines) == 1
    assert "can never run on this machine" in lines[0]
    assert "900 TB memory wanted" in lines[0]


def test_a_file_in_the_place_of_a_queue_harms_no_other_queue(place):
    odd = place.queue_root / "local_odd"
    odd.write_text("not a directory")
    try:
        assert place.wait(place.submit(HELLO)).ok
    finally:
        odd.unlink()


def test_a_queue_whose_state_cannot_be_kept_is_complained_of_once_and_harms_no_other(place, until):
    state = place.queue_root / ".studio-runner" / "queues" / "local_broken"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text("not a directory")
    key, body = place.request(place.workspace(HELLO))
    place.publish(body, "local_broken")
    until(lambda: "local_broken/claimed" in place.log())
    assert place.wait(place.submit(HELLO)).ok
    state.unlink()
    assert place.wait(key).ok  # it runs as soon as it can
    assert place.log().count("local_broken/claimed") == 1
    until(lambda: not place.claimed("local_broken"))
    shutil.rmtree(place.queue_root / "local_broken")


def test_an_unreadable_queue_harms_no_other(place, until):
    if os.geteuid() == 0:
        pytest.skip("modes do not bind root: the two tests above stand for it")
    closed = place.queue_root / "local_closed"
    closed.mkdir(mode=0)
    try:
        until(lambda: str(closed) in place.log())
        assert place.wait(place.submit(HELLO)).ok
    finally:
        closed.rmdir()


@pytest.fixture
def small_disk(cache):
    """An installation whose experiments run on a disk of 4 MiB."""
    with installation(cache) as made:
        disk = made.home / "small"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "studio-runner-test", str(disk)]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("NOT TESTED: only a user who may mount can have a disk small enough to fill")
        try:
            with made.daemon("--working-dir", str(disk / "runner")):
                yield made, disk
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_delays_experiments_until_there_is_room(small_disk, until):
    place, disk = small_disk
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(3_500_000))
    key = place.submit({**HELLO, "weights": os.urandom(1_000_000)}, resources_needed={})
    until(place.delayed)
    record = place.record(key)
    assert record["status"] == "waiting"
    assert record["studio_runner"]["reason"] == "storage_unavailable"
    assert "is full" in record["studio_runner"]["sentence"]
    assert not place.stored(key, "_results").exists()

    ballast.unlink()
    results = place.wait(key)
    assert results.ok
    assert results.attempt == 2
    assert place.output(key).endswith("hello\n")
    assert "is full" in place.files(key, "output")["output.attempt-1"].decode()


def test_nothing_is_begun_on_a_full_disk(small_disk, until):
    place, disk = small_disk
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    keys = [place.submit(HELLO, resources_needed={}) for _ in range(8)]
    until(lambda: "nothing is taken until there is room" in place.log())

    ballast.unlink()

    assert all(place.wait(key).ok for key in keys)
    assert (
        sum(place.results(key).attempt > 1 for key in keys) <= 1
    )  # whoever was taken as the disk was seen to be full


def test_a_script_that_fills_the_disk_fails_and_what_it_wrote_before_comes_back(small_disk):
    place, _ = small_disk
    script = """
print("writing", flush=True)
with open("../modeldir/model", "wb") as file:
    for _ in range(100):
        file.write(bytes(100_000))
        file.flush()
"""
    key = place.submit({"main.py": script}, resources_needed={})
    results = place.wait(key)
    assert (results.reason, results.exit_code) == ("script_failed", 1)
    assert place.output(key).startswith("writing\n")
    assert "No space left on device" in place.output(key)
    assert len(place.files(key, "modeldir")["model"]) > 2_000_000
    assert place.wait(place.submit(HELLO, resources_needed={})).ok


def test_what_does_not_fit_on_the_disk_is_left_to_others(small_disk, until):
    place, _ = small_disk
    key = place.submit(HELLO)
    until(lambda: key in place.log())
    assert "100 MB disk wanted" in place.log()
    assert len(place.waiting()) == 1
