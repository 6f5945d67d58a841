"""Nothing that a runner writes holds a secret: seeded ones are looked for in all of it, in many forms.

Only the message itself, what the script wrote, and the stored output (unless it is masked) may.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from studio_runner.testing import QUEUE, command_path, installation
from tests import specification
from tests.e2e import canaries as cage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the story alone takes minutes on a busy machine

SLEEPS = "open('../modeldir/begun', 'w').close(); time.sleep(600) if not os.path.exists(os.environ['AGAIN']) else 0"
BREAKS = """
import sys
from studio_runner.cli import main
from studio_runner.runner import attempt
async def run_script(trial, environment):
    raise RuntimeError(f"{trial.request.document!r} {trial.host.settings!r}")
attempt.run_script = run_script
sys.argv[0] = "studio-runner"
main.main()
"""
CRASHES = """
import os, sys
from studio_runner.cli import main
from studio_runner.runner import daemon
async def serve(*given):
    raise RuntimeError(f"{given!r} {dict(os.environ)}")
daemon.serve = serve
sys.argv[0] = "studio-runner"
main.main()
"""


BY_OTHERS = re.compile(
    r"/daemon\.log$|/registry\.json$|/message [^/]*\.json$|/canaries-[^/]*$|/gate-[^/]*$|/again$|/blobstore/|/readers/"
    r"|/queue/(?!.*\.reason\.json$)|/output\.tar$|/senders/"
)
"""Files of these tests, messages, the records that senders keep, and output as it is stored when nobody asks for more."""

COMMANDS = (
    *("list -n 0", "list --json", "queues", "queues --json", f"queues {QUEUE}", f"queues {QUEUE} --json"),
    *("doctor", "config show", "config show --json", "start --amqp-url nowhere"),
)


class Story:
    """Experiments with secrets in one private installation, and all that was written because of them."""

    def __init__(self, place, server, caged):
        self.place, self.server, self.canaries = place, server, caged
        self.port = server.server_address[1]
        self.temporary = place.home / "tmp"
        self.temporary.mkdir()
        self.again, self.records = place.home / "again", place.home / "senders"
        self.records.mkdir()
        self.readers, self.reader = place.home / "readers", specification.new_key()
        self.readers.mkdir(mode=0o700)
        (self.readers / QUEUE).write_bytes(specification.public_pem(self.reader))
        (place.queue_root / f"{QUEUE}_response").mkdir()
        self.environ = {
            **place.environment(),
            **cage.environ(caged, self.port, place.home / "registry.json"),
            "TMPDIR": str(self.temporary),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.said, self.sent = {}, {}
        self.keys = {}

    # -- experiments -----------------------------------------------------------------------------------------------

    def message(self, ending="", artifacts=None, pip=(), **experiment):
        workspace = self.place.workspace({"main.py": cage.script(ending)})
        settings = cage.config(self.canaries, self.port, self.records) | {"pip": [*pip]}
        quoted = {name: shlex.quote(self.canaries[name]) for name in cage.GIVEN}
        bundle = f"--steps 3 --token {quoted['bundle']} --verbose"
        arguments = ["--password", quoted["argument"], quoted["position"], bundle]
        key, body = self.place.request(workspace, config=settings, **{"args": arguments, **experiment})
        document = json.loads(body)
        for entry in document["experiment"]["artifacts"].values():
            entry["credentials"] = cage.credentials(self.canaries)
        document["experiment"]["artifacts"] |= artifacts or {}
        shown = self.place.home / f"canaries-{key}"
        fields = {*self.canaries.found(json.dumps(document)), *cage.OWN}
        shown.write_text(json.dumps([self.canaries[field] for field in sorted(fields)]))
        document["config"]["env"] |= {"AGAIN": str(self.again), "CANARIES": str(shown)}
        return key, document

    def publish(self, name, document, mangle=lambda body: body):
        self.keys[name] = document["experiment"]["key"]
        self.sent[name] = mangle(json.dumps(document).encode())
        self.place.publish(self.sent[name])

    def submit(self, name, **message):
        self.publish(name, self.message(**message)[1])

    def remote(self, path):
        caged = self.canaries
        user = f"me:{caged.quoted('artifact_password')}@" if not path.startswith("s3") else ""
        scheme, _, rest = path.partition("://")
        query = f"?X-Amz-Signature={caged.quoted('artifact_signature')}" if scheme == "http" else ""
        address = f"{scheme}://{user}127.0.0.1:{self.port}/{rest}{query}"
        plain = {} if scheme == "http" else {"credentials": cage.credentials(caged)}
        return {"qualified": address, "mutable": False, "unpack": True, **plain}

    def submit_all(self):
        """Every end that an experiment can come to without anybody's help."""
        index = f"http://me:{self.canaries.quoted('index_password')}@127.0.0.1:{self.port}"
        package = f"canary @ http://me:{self.canaries.quoted('package_password')}@127.0.0.1:{self.port}/canary-1.0-py3-none-any.whl"
        pip = cage.config(self.canaries, self.port, self.records)["pip"]
        self.submit("succeeds")
        self.submit("fails", ending="raise RuntimeError(repr(values) + ' '.join(values))")
        self.submit("misses", artifacts={"data": self.remote("http://missing/data.tar")})
        self.submit("refused", artifacts={"data": self.remote("http://refused/data.tar")})
        self.submit("refused by S3", artifacts={"data": self.remote("s3://refused/data.tar")})
        self.submit("unavailable", artifacts={"data": self.remote("http://broken/data.tar")})
        self.submit("index", pythonenv=[f"--index-url {index}/simple", "canary-of-nobody"])
        self.submit("package", pythonenv=[package])
        repository = (
            f"canary @ git+http://me:{self.canaries.quoted('git_password')}@127.0.0.1:{self.port}/repository"
        )
        self.submit("repository", pythonenv=[repository])
        self.submit("pip", pip=[*pip, "canary-of-nobody==${API_TOKEN}"])
        _, document = self.message(max_duration=self.canaries["env_token"])
        self.publish("invalid", document)
        _, document = self.message()
        document["config"]["env"]["MY_PASSWORD"] = {"not": [self.canaries["env_password"]]}
        self.publish("invalid variable", document)
        _, document = self.message()
        self.publish("broken", document, mangle=lambda body: body[:-40])

    # -- programs --------------------------------------------------------------------------------------------------

    def start(self, *options, program=()):
        command = [*(program or (command_path(), "start")), "--log-level", "debug", "--deliveries", "1",
                   "--storage-patience", "1s", "--lease", "1s", "--allow-env-secrets",
                   "--response-signatures-dir", str(self.readers), *options]  # fmt: skip
        with (self.place.home / "daemon.log").open("ab") as log:
            return subprocess.Popen(command, env=self.environ, stdout=log, stderr=log, start_new_session=True)

    def end(self, daemon, number=signal.SIGTERM):
        daemon.send_signal(number)
        daemon.wait(120)

    def run(self, name, *arguments, program=()):
        command = [*(program or (command_path(),)), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, env=self.environ, timeout=300)
        self.said[name] = done.stdout + done.stderr
        return done

    def until(self, true, patience=300):
        deadline = time.monotonic() + patience
        while not (found := true()):
            assert time.monotonic() < deadline, f"it did not happen in time; {self.place.log()[-5000:]}"
            time.sleep(0.02)
        return found

    def over(self):
        return not self.place.waiting() and not self.place.claimed()

    # -- scenes ----------------------------------------------------------------------------------------------------

    def play(self):
        self.with_dashboard("json", "first")
        self.with_dashboard("text", "second", "--mask-output")
        self.killed()
        self.broken_inside()
        self.crashed()
        self.looked_at()

    def with_dashboard(self, form, name, *options):
        """All experiments under a daemon whose every page is read meanwhile."""
        self.submit_all()
        if not options:
            self.unrecorded()
        mark = len(self.place.log())
        daemon = self.start("--log-format", form, "--http-address", "127.0.0.1:0", "--http-private", *options)
        found = self.until(lambda: re.search(r" at (http://[\d.:]+)/", self.place.log()[mark:]))
        headers = {"Authorization": f"Bearer {self.canaries['own_http_token']}"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=60, trust_env=False) as http:
            events = threading.Thread(target=self._listen, args=(http, name))
            events.start()
            self._follow(http, name)
            self.until(self.over)
            self._read_pages(http, name)
            self.end(daemon)
            events.join()

    def _listen(self, http, name):
        received = b""
        with suppress(httpx.HTTPError), http.stream("GET", "/api/v1/events", timeout=120) as stream:
            for piece in stream.iter_bytes():
                received += piece
        self.said[f"{name}: events"] = received

    def _follow(self, http, name):
        """One experiment's output as it comes, over HTTP and on the command line."""
        gate = self.place.home / f"gate-{uuid.uuid4().hex}"
        waits = f"while not os.path.exists({str(gate)!r}): time.sleep(0.02)"
        self.submit(f"{name} followed", ending=waits)
        key = self.keys[f"{name} followed"]
        self.until(lambda: b"some text" in http.get(f"/api/v1/experiments/{key}/output").content)
        followed = subprocess.Popen([command_path(), "logs", "-f", key], env=self.environ, stdout=subprocess.PIPE)
        self._read_pages(http, f"{name} meanwhile")
        gate.touch()
        self.said[f"{name}: logs -f"] = followed.communicate(timeout=300)[0]

    def _read_pages(self, http, name):
        paths = ["/", "/metrics", "/readyz", "/api/v1/runner", "/api/v1/queues", "/api/v1/experiments"]
        paths += ["/nothing", "/api/v1/experiments?after=nobody", "/api/v1/openapi.json"]
        for key in self.keys.values():
            paths += [f"/experiments/{key}", f"/api/v1/experiments/{key}", f"/api/v1/experiments/{key}/output"]
            paths += [f"/api/v1/experiments/{key}/output?tail=300"]
        for path in paths:
            answer = http.get(path, headers={"Accept": "text/html"} if len(path) % 2 else {})
            self.said[f"{name}: GET {path}"] = answer.content
        for key in (self.keys["fails"], "nobody"):
            self.said[f"{name}: stop {key}"] = http.post(f"/api/v1/experiments/{key}/stop").content

    def unrecorded(self):
        """One whose sender's records cannot be written, after somebody asked in vain for thirty seconds."""
        _, document = self.message(ending="sys.exit(3)")
        document["config"]["database"] = cage.refused_database(self.canaries, self.port)
        self.publish("unrecorded", document)

    def killed(self):
        """A runner that dies in the middle of an experiment, and the next one that finds what it left."""
        self.submit("killed", ending=SLEEPS)
        daemon = self.start("--http-address", "")
        self.until(lambda: list(self.place.attempts.glob("*/modeldir/begun")))
        self.end(daemon, signal.SIGKILL)
        self.again.touch()
        daemon = self.start("--http-address", "", "--deliveries", "3")
        self.until(self.over)
        self.end(daemon)

    def broken_inside(self):
        """An error that nobody expected, with everything in its text, in an attempt."""
        self.submit("broken inside")
        daemon = self.start("--http-address", "", program=(sys.executable, "-c", BREAKS, "start"))
        self.until(self.over)
        self.end(daemon)

    def crashed(self):
        """And one in the command itself."""
        for more in ((), ("--debug",)):
            program = (sys.executable, "-c", CRASHES, "start", "--http-address", "", *more)
            self.run(f"crash {more}", program=program)

    def looked_at(self):
        """Everything that people type."""
        patience = ("--storage-patience", "1s")
        calls = {words: words.split() for words in COMMANDS}
        for name in ("succeeds", "fails", "refused by S3", "package", "broken inside", "killed", "invalid"):
            key = self.keys[name]
            calls |= {
                f"show {name}": ["show", *patience, key],
                f"show --json {name}": ["show", "--json", *patience, key],
            }
            calls[f"logs {name}"] = ["logs", *patience, key]
            calls[f"fetch {name}"] = ["fetch", *patience, key, "data", str(self.place.home / "nowhere")]
            calls[f"stop {name}"] = ["stop", key]
            calls[f"rerun {name}"] = ["rerun", *patience, key]
        for name, message in {"valid": {}, "missing": {"data": self.remote("http://missing/data.tar")},
                              "refused": {"data": self.remote("s3://refused/data.tar")}}.items():  # fmt: skip
            path = self.place.home / f"message {name}.json"
            path.write_text(json.dumps(self.message(artifacts=message)[1]))
            calls |= {f"{verb} {name}": [verb, *patience, str(path)] for verb in ("check", "exec")}
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: self.run(name, *calls[name]), calls))


@pytest.fixture(scope="module")
def story(cache):
    with installation(cache) as place, cage.telltale() as server, cage.command_lines() as lines:
        told = Story(place, server, cage.Canaries())
        told.lines = lines
        told.play()
        yield told


def test_the_secrets_were_there(story):
    """Or else nothing would be proved: messages, scripts and stored output have all of them."""
    sent = story.canaries.found(b"".join(story.sent.values()))
    assert {*sent, *cage.OWN} == set(cage.FIELDS)
    written = story.canaries.found(story.place.output(story.keys["killed"]))
    assert {"env_token", "artifact_secret", "argument", *cage.OWN} <= set(written)
    assert len(story.server.posts) > 20
    assert story.canaries.found(b"".join(story.lines)) == [*cage.GIVEN]


@pytest.mark.parametrize("form", ["{}", "x{}", "xx{}"])
def test_the_search_finds_every_form(form):
    caged = cage.Canaries()
    value = form.format(caged["env_password"])
    for data in (value, json.dumps(value), repr(value), cage.quote(value), cage.base64.b64encode(value.encode())):
        assert caged.found(data) == ["env_password"]
    assert caged.found("nothing") == []


def leaks(story, texts, but=()):
    found = {name: story.canaries.found(text, but=but) for name, text in texts.items()}
    return "\n".join(f"{name}: {' '.join(fields)}" for name, fields in found.items() if fields)


def test_the_runners_log_tells_none(story):
    assert leaks(story, dict(enumerate(story.place.log().splitlines()))) == ""


def test_commands_and_pages_tell_none(story):
    assert leaks(story, story.said) == ""


def test_receivers_of_notices_are_told_none(story):
    assert leaks(story, dict(enumerate(story.server.posts))) == ""


def test_reports_tell_none(story):
    messages = story.place.waiting(f"{QUEUE}_response")
    reports = {path.name: specification.opened(path.read_bytes(), story.reader) for path in messages}
    assert len(reports) > 100
    assert leaks(story, reports) == ""


def test_reasons_of_dead_letters_tell_none(story):
    letters = story.place.dead_letters()
    assert len(letters) >= 8
    assert leaks(story, {letter["reason"][:40]: letter["reason"] for letter in letters}) == ""


def test_no_file_holds_one_but_messages_and_what_scripts_wrote(story):
    """Tracebacks, caches, records, results, metadata. A script's artifacts are its own affair."""
    home = cage.files_below(story.place.home, but=BY_OTHERS)
    assert any(name.endswith(".traceback") and b"RuntimeError: (Settings(" in text for name, text in home.items())
    assert any("_metadata" in name or "/metadata/" in name for name in home)
    assert leaks(story, home | cage.files_below(story.place.cache)) == ""


def test_what_is_told_in_the_records_of_senders_holds_none(story):
    """The rest of them is what they have sent, and they need it."""
    records = {path.name: json.loads(path.read_bytes()) for path in (story.records / "db/experiments").iterdir()}
    assert len(records) > 20
    assert leaks(story, {name: json.dumps(record["studio_runner"]) for name, record in records.items()}) == ""


def test_masked_output_holds_none(story):
    """The second time the operator had asked for that."""
    assert leaks(story, {name: story.place.output(story.keys[name]) for name in ("succeeds", "fails")}) == ""


def test_no_command_line_holds_one(story):
    """But for the arguments that a sender gave its script: they are its command line."""
    assert leaks(story, {line[:200]: line for line in story.lines}, but=cage.GIVEN) == ""


def test_what_is_written_is_its_users_alone(story):
    """The umask of these tests is another."""
    written = [path for path in story.place.home.rglob("*") if path.is_file() and not BY_OTHERS.search(str(path))]
    assert len(written) > 50
    assert [str(path) for path in written if path.stat().st_mode & 0o077] == []
    assert not list(story.place.home.rglob("core*"))
