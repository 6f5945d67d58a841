"""A script prints the secrets that its message brought: whoever looks at the output sees stars."""

import base64
import json
import re
import subprocess
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import pytest

from studio_runner.testing import command_path, installation

SECRET = "canary/Of+The=Script/0123456789"
TOKEN = "ghp_" + "CanaryNotAToken000000000000000000000"
FORMS = (
    SECRET,
    base64.b64encode(SECRET.encode()).decode(),
    quote(SECRET, safe=""),
    json.dumps(SECRET)[1:-1],
    TOKEN,
)
ENV = {"SOME_PASSWORD": SECRET, "LOOKS_HARMLESS": TOKEN}
SCRIPT = """
import base64, json, os, sys, time
from pathlib import Path
from urllib.parse import quote
secret, token = os.environ["SOME_PASSWORD"], os.environ["LOOKS_HARMLESS"]
print("begun with", secret, flush=True)
print(base64.b64encode(secret.encode()).decode(), quote(secret, safe=""), token, flush=True)
print(json.dumps({"loss": 0.5, "said": secret}), flush=True)
for character in secret:
    os.write(1, character.encode())
    time.sleep(0.002)
print(" waits", flush=True)
while "WAIT" in os.environ and not Path("../modeldir/go").exists():
    time.sleep(0.02)
for number in range(int(os.environ["LINES"])):
    print(number, secret if number % 9 == 1 else "nothing", flush=number % 7 == 0)
raise SystemExit(f"failed with {secret}")
"""


@pytest.fixture(scope="module")
def served(cache):
    """A runner with its HTTP address."""
    with opened(cache) as found:
        yield found


@contextmanager
def opened(cache, *options):
    with installation(cache) as place, place.daemon("--http-address", "127.0.0.1:0", *options):
        yield place


def address(place):
    found = re.search(r" at (http://\S+)/", place.log())
    return found and found[1]


def submit(place, lines, **env):
    return place.submit({"main.py": SCRIPT}, config={"env": {**ENV, "LINES": str(lines), **env}})


def clean(text):
    """It has what is no secret, and nothing of what is one."""
    assert "begun with ***" in text
    assert not [form for form in FORMS if form in text or form[5:20] in text]
    return text


def cli(place, *arguments):
    done = subprocess.run(
        [command_path(), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=place.environment(),
        timeout=120,
    )
    assert not [form for form in FORMS if form in done.stderr]
    return done.stdout


def let_end(place, key):
    for attempt in place.attempts.glob(f"{key}*"):
        (attempt / "modeldir" / "go").touch()


@pytest.fixture
def waiting(served, until):
    """An experiment that has printed its secrets, and waits."""
    key = submit(served, lines=3, WAIT="yes")
    until(lambda: "waits" in cli(served, "logs", key))
    yield key
    let_end(served, key)
    served.ended(key)


def test_nobody_sees_them_while_it_runs(served, waiting, until):
    clean(cli(served, "logs", waiting))
    assert "anary" not in cli(served, "logs", "--tail", "2", waiting)
    base = until(lambda: address(served))
    with httpx.Client(base_url=base, trust_env=False, timeout=120) as http:
        whole = http.get(f"/api/v1/experiments/{waiting}/output").text
        clean(whole)
        for tail in range(1, len(whole), 7):
            assert http.get(f"/api/v1/experiments/{waiting}/output", params={"tail": tail}).text == whole[-tail:]
        following = subprocess.Popen(
            [command_path(), "logs", "-f", waiting], env=served.environment(), stdout=-1, text=True
        )
        with http.stream("GET", f"/api/v1/experiments/{waiting}/output", params={"follow": "true"}) as answer:
            pieces = answer.iter_text()
            text = next(pieces)
            let_end(served, waiting)
            text += "".join(pieces)
        clean(text)
        assert re.search(r"^1 \*+$", text, re.MULTILINE)
        assert clean(following.communicate(timeout=120)[0]) == text


def test_nobody_sees_them_when_it_is_over(served, until):
    key = submit(served, lines=5)
    record = served.ended(key)
    assert SECRET in served.output(key)  # the operator did not object
    text = clean(cli(served, "logs", key))
    assert re.search(r"^1 \*+$", text, re.MULTILINE)
    assert clean(cli(served, "logs", "-f", key)) == text
    assert SECRET[-5:] not in cli(served, "logs", "--tail", "1", key)
    base = until(lambda: address(served))
    assert httpx.get(f"{base}/api/v1/experiments/{key}/output", trust_env=False).text == text
    [metadata] = (served.store / "experiments" / key / "metadata").iterdir()
    assert json.loads(metadata.read_text()) | {"studioml": None} == {
        "loss": 0.5, "said": "*" * len(SECRET), "studioml": None
    }  # fmt: skip
    assert not [form for form in FORMS if form in json.dumps(record["studio_runner"])]
    until(lambda: list((served.home / "runner" / "hidden").iterdir()) == [])


def test_with_a_gap_nobody_sees_them_either(cache):
    with opened(cache, "--output-limit", "20000") as place:
        key = submit(place, lines=2000)
        place.ended(key)
        text = clean(cli(place, "logs", key))
        assert "bytes left out here" in text
        assert "\n1998 nothing\n1999 ***" in text


def test_where_the_operator_objects_they_are_not_stored(cache):
    with opened(cache, "--mask-output") as place:
        key = submit(place, lines=3)
        place.ended(key)
        assert clean(cli(place, "logs", key)) == clean(place.output(key))


def test_exec_and_run_show_none(cache, tmp_path):
    with installation(cache) as place:
        _, body = place.request(place.workspace({"main.py": SCRIPT}), config={"env": {**ENV, "LINES": "2"}})
        (tmp_path / "message.json").write_bytes(body)
        clean(cli(place, "exec", str(tmp_path / "message.json")))
        (tmp_path / "none.txt").touch()
        (tmp_path / "main.py").write_text(SCRIPT)
        (place.home / "config.yaml").write_text(json.dumps({"env": {**ENV, "LINES": "2"}}))
        done = subprocess.run(
            [command_path(), "run", "--requirements", "none.txt", "main.py"],
            check=False, capture_output=True, text=True, env=place.environment(), timeout=120, cwd=tmp_path,
        )  # fmt: skip
        clean(done.stdout)
        assert not [form for form in FORMS if form in done.stderr]
