"""Experiments in containers as their senders see them, with a runner of root and of a user."""

import json
import os
import socket

import pytest

from studio_runner.testing import artifact


@pytest.fixture(params=["sandbox", "sif"])
def image(request, image_archive, image_sif):
    return {"sandbox": image_archive, "sif": image_sif}[request.param]


FACTS = """
import json, os, sys
open("../modeldir/weights", "w").write("trained")
open("beside.txt", "w").write("scripts write beside themselves")
base = os.path.join(os.environ["STUDIOML_HOME"], "experiments", os.environ["STUDIOML_EXPERIMENT"])
print(json.dumps({
    "args": sys.argv[1:], "cwd": os.getcwd(), "base": os.listdir(base), "inside": os.environ.get("IN_TEST_IMAGE"),
    "data": open("../data/part").read(), "other": open("/opt/part").read() if os.path.exists("/opt/part") else None,
    "uid": os.getuid(), "umask": os.umask(0), "tty": sys.stdin.isatty(), "encoding": sys.stdout.encoding,
    "threads": os.environ["OMP_NUM_THREADS"], "cards": os.environ["CUDA_VISIBLE_DEVICES"],
}))
"""


def test_a_script_runs_in_the_image_with_its_artifacts(den, image, account):
    data = {"qualified": f"file://{den.workspace({'part': 'of the data'})}", "mutable": False, "unpack": True}
    key = den.contained(FACTS, image=image, args=["'two words'", "-x"], artifacts={"data": data})

    said = den.said(key)

    assert said["args"] == ["two words", "-x"]
    assert said["inside"] == "1"
    assert said["cwd"].endswith("/workspace")
    assert {"workspace", "modeldir", "data", "output"} <= set(said["base"])
    assert "_singularity" not in said["base"]
    assert said["data"] == "of the data"
    assert (said["uid"], said["umask"], said["tty"]) == (account.uid, 0o022, False)
    assert said["encoding"].lower() == "utf-8"
    assert (said["threads"], said["cards"]) == ("1", "-1")
    assert den.files(key, "modeldir") == {"weights": b"trained"}
    metadata = next((den.stored(key, "output").parent / "metadata").iterdir())
    assert "_singularity" in json.loads(metadata.read_bytes())["studioml"]["artifacts"]


def test_a_module_runs(den, image):
    key = den.contained(
        {"package/__init__.py": "", "package/task.py": "import sys; print(sys.argv[1:])"},
        image=image, filename="-m", args=["package.task", "7"],
    )  # fmt: skip

    assert den.wait(key).ok
    assert den.output(key).endswith("['7']\n")


def test_the_images_own_program_runs_with_the_arguments(den, image):
    """The filename is null: the runscript, which here runs Python."""
    key = den.contained("print('of the workspace')", image=image, filename=None, args=["main.py", "'two words'"])

    assert den.wait(key).ok
    assert den.output(key).endswith("runscript: main.py two words\nof the workspace\n")


def test_the_images_own_program_needs_no_workspace(den):
    key = den.contained("", filename=None, args=["-c", "'print(6 * 7)'"], artifacts={"workspace": None})

    assert den.wait(key).ok
    assert den.output(key).endswith("42\n")


def test_a_script_of_the_image_runs(den):
    key = den.contained("", filename="/usr/lib/python3/hello.py")

    results = den.wait(key)

    assert (results.reason, results.exit_code) == ("script_failed", 2)  # it is looked for in the image, not here
    assert "can't open file '/usr/lib/python3/hello.py'" in den.output(key)


@pytest.mark.parametrize("code", [1, 3, 255])
def test_the_exit_code_is_the_scripts(den, code):
    key = den.contained(f"import sys\nprint('FATAL: so it says')\nsys.exit({code})")

    results = den.wait(key)

    assert (results.reason, results.exit_code) == ("script_failed", code)


def test_a_missing_script_is_said_in_words(den):
    key = den.contained("", filename="train.py")

    results = den.wait(key)

    assert results.reason == "artifact_invalid"
    assert "the workspace has no file train.py; it has: main.py" in results.sentence


def test_a_missing_interpreter_is_said_in_words(den):
    key = den.contained("", pythonver="2.7")

    results = den.wait(key)

    assert results.reason == "environment_failed"
    assert "has no Python 2.7 on its PATH; it has python 3." in results.sentence


def test_another_version_than_the_senders_is_said(den):
    key = den.contained("print('runs')", pythonver="3.6", pythonenv=["numpy==1.19.5"])

    assert den.wait(key).ok
    assert "the image has no Python 3.6; its python 3." in den.output(key)
    assert "the requirements (pythonenv) are left out" in den.output(key)


def test_its_temporary_files_have_room_and_count_as_disk(den):
    """Runtimes give 64 MB of memory by themselves."""
    write = "with open('/tmp/file', 'wb') as file:\n    for _ in range({}): file.write(b'x' * 1000000)\nprint('written')"
    fits = den.contained(write.format(100))
    fills = den.contained(write.format(400) + "\nimport time; time.sleep(60)")

    assert den.wait(fits).ok
    assert den.wait(fills).reason == "disk_exceeded"


def test_home_and_shared_memory_can_be_used(den):
    code = """
import os, multiprocessing.shared_memory as shared
open(os.path.expanduser("~/file"), "w").write("x")
block = shared.SharedMemory(create=True, size=1 << 20)
block.close()
block.unlink()
print("fine")
"""
    key = den.contained(code)

    assert den.wait(key).ok, den.output(key)


def test_too_much_memory_ends_it(den):
    results = den.wait(den.contained("import time; hog = bytearray(700_000_000); time.sleep(60)"))

    assert results.reason == "out_of_memory"


def test_many_processes_end_with_the_time_limit(site, served, nothing_left):
    code = (
        "import os, time\nfor _ in range(200):\n    if not os.fork():\n        time.sleep(1000)\ntime.sleep(1000)"
    )
    with served(site, "--grace", "100ms"):
        results = site.wait(site.contained(code, max_duration="8s", resources_needed={"cpus": 1, "ram": "2gb"}))
        nothing_left(site)

    assert results.reason == "timed_out"


def test_what_is_no_image_is_said(den):
    path = den.store / "blobstore" / "junk.sif"
    path.write_bytes(b"not an image" * 1000)

    results = den.wait(den.contained("print()", image=path))

    assert results.reason == "artifact_invalid"
    assert "junk.sif" in results.sentence


def test_an_image_that_is_not_there_is_said(den):
    results = den.wait(den.contained("print()", image=den.store / "blobstore" / "nowhere.sif"))

    assert results.reason == "artifact_missing"


def test_without_a_network_nothing_is_reached(site, served):
    """Not even what listens on this machine's loopback."""
    code = """
import json, os, socket
reached = []
for address in (("127.0.0.1", int(os.environ["PORT"])), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=2).close()
        reached.append(address)
    except OSError:
        pass
print(json.dumps([reached, sorted(name for _, name in socket.if_nameindex())]))
"""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with served(site):
            reached, _ = site.said(site.contained(code, config={"env": {"PORT": str(port)}}))
            assert reached == [["127.0.0.1", port]]
        with served(site, "--no-container-network"):
            assert site.said(site.contained(code, config={"env": {"PORT": str(port)}})) == [[], ["lo"]]


def test_without_a_runtime_it_is_left_to_others(site, served, until):
    with served(site, "--container-runtime", "/nonexistent/apptainer"):
        site.contained("print()")
        until(lambda: "/nonexistent/apptainer" in site.log() or "no container runtime" in site.log())
        assert site.wait(site.submit({"main.py": "print('without')"})).ok
        until(
            lambda: (
                [len(place) for place in (site.waiting(), site.claimed(), site.delayed())] in ([0, 0, 1], [1, 0, 0])
            )
        )


def test_variables_that_a_message_sets_win(den):
    code = "import json, os; print(json.dumps([os.environ['PATH'], os.environ['LANG'], os.environ.get('SHELL')]))"

    path, lang, shell = den.said(den.contained(code, config={"env": {"PATH": "/opt/bin:/usr/bin", "LANG": "C"}}))

    assert path == "/opt/bin:/usr/bin"
    assert lang == "C"
    assert shell is None or shell == "/bin/bash" or shell not in os.environ.get("SHELL", "")


def test_it_is_tried_on_the_spot(site, image_sif):
    """`exec`, as an operator replays a message."""
    _, body = site.request(site.workspace({"main.py": "print('on the spot')"}))
    document = json.loads(body)
    document["experiment"]["artifacts"]["_singularity"] = {**artifact(image_sif, mutable=False), "unpack": False}
    message = site.home / "message.json"
    message.write_text(json.dumps(document))

    done = site.studio_runner("exec", str(message), capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("on the spot\n")


@pytest.mark.network
def test_requirements_are_installed_for_the_images_python_where_the_operator_wants_it(site, served):
    """Once; with an error in the installer's own words."""
    code = "import idna, json, sys; print(json.dumps([idna.__version__, idna.__file__, sys.version_info[:2]]))"
    with served(site, "--container-environments"):
        first = site.contained(code, pythonenv=["idna==3.6"])
        version, file, _ = site.said(first)
        second = site.contained(code, pythonenv=["idna==3.6"])
        assert site.said(second)[:2] == [version, file]
        bad = site.contained(code, pythonenv=["idna==999"])
        refused = site.wait(bad)

    assert version == "3.6"
    assert "in the container" in site.output(first)
    assert "in the container" not in site.output(second)
    assert refused.reason == "environment_failed"
    assert "idna==999" in refused.sentence


def test_the_front_end_takes_an_image(site, image_sif):
    project = site.home / "person" / "project"
    project.mkdir()
    (project / "main.py").write_text("import os, sys; print(os.environ['IN_TEST_IMAGE'], sys.argv[1:])")
    project.chmod(0o755)

    done = site.studio_runner(
        "run",
        "--container",
        str(image_sif),
        "--ram",
        "300mb",
        "main.py",
        "7",
        cwd=project,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("1 ['7']\n")
