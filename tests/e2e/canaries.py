"""Secrets that are easily found again, and all that a runner wrote about experiments that had them."""

import base64
import http.server
import json
import secrets
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

FIELDS = (
    *("artifact_key", "artifact_secret", "artifact_session", "plain_password", "jwt_token"),
    *("storage_key", "storage_secret", "database_secret", "database_password"),
    *("env_token", "env_password", "env_aws_secret", "env_json"),
    *(
        "artifact_password",
        "artifact_signature",
        "index_password",
        "pip_password",
        "package_password",
        "git_password",
    ),
    *("rmq_password", "server_token", "argument", "position", "bundle"),
    *(
        "own_aws_secret",
        "own_amqp_password",
        "own_http_token",
        "own_slack_token",
        "own_slack_path",
        "own_webhook",
        "own_registry",
    ),
)
OWN = tuple(field for field in FIELDS if field.startswith("own_"))
GIVEN = ("argument", "position", "bundle")
"""What scripts get as arguments."""
PROBE = 12
"""Characters that are enough: texts may have been cut."""


class Canary:
    """A secret with two ends by which it is found in whatever form."""

    def __init__(self, field, middle):
        self.field = field
        self.ends = [secrets.token_hex(10) for _ in range(2)]
        self.value = middle.join(self.ends)
        self._probes = [probe for end in self.ends for probe in _probes(end[:PROBE].encode())]
        self._probes.append(self.value.encode().hex()[: 2 * PROBE].encode())

    def is_in(self, data):
        return any(probe in data for probe in self._probes)


def _probes(core):
    """As it is (escapes for JSON, HTML and URLs leave letters and figures alone), and what is the same of all its
    base64 forms."""
    yield core
    for before in range(3):
        begin, end = -(-8 * before // 6), 8 * (before + len(core)) // 6
        yield base64.b64encode(b"\0" * before + core)[begin:end]


class Canaries:
    """One for each field that can carry a secret; every other one with characters that have to be escaped."""

    def __init__(self):
        middles = ("", '+/&%="é\\<>', "-", "/+=")
        self._all = {field: Canary(field, middles[index % 4]) for index, field in enumerate(FIELDS)}

    def __getitem__(self, field):
        return self._all[field].value

    def quoted(self, field):
        """As it stands in addresses."""
        return quote(self[field], safe="")

    def found(self, data, *, but=()):
        """The fields whose secrets are in it."""
        data = data.encode(errors="surrogateescape") if isinstance(data, str) else data
        return [field for field, canary in self._all.items() if field not in but and canary.is_in(data)]


class Telltale(http.server.BaseHTTPRequestHandler):
    """Refuses everything and repeats what it was sent; remembers posts."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        said = base64.b64decode(self.headers.get("Authorization", "").partition(" ")[2] + "===", validate=False)
        text = f"<Error><Code>AccessDenied</Code><Message>{self.path} {self.headers} {said}</Message></Error>"
        status = {"missing": 404, "broken": 500}.get(self.path.split("/")[1], 403)
        self._answer(status, text.encode(errors="replace"))

    do_HEAD = do_PUT = do_GET  # noqa: N815

    def do_POST(self):
        self.server.posts.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self._answer(200, b"{}")

    def _answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def telltale():
    """The server; its `posts` are what came."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Telltale) as server:
        server.daemon_threads, server.posts = True, []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def command_lines():
    """All command lines of this machine while the context lasts, as a set that grows."""
    seen, over = set(), threading.Event()

    def look():
        while not over.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(path.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def script(ending):
    """A program that shows the secrets of its message and its runner in every way that it can think of, then ends so."""
    return f"""
import base64, json, os, sys, time, urllib.parse
values = json.load(open(os.environ["CANARIES"]))
for value in values:
    print(value, repr(value), json.dumps(value), urllib.parse.quote(value, safe=""), flush=True)
    print(base64.b64encode(value.encode()).decode(), base64.b64encode(b"user:" + value.encode()).decode())
    print("some text before " + value + " and after it", file=sys.stderr)
print(json.dumps({{"experiment": {{"seen": values}}}}), flush=True)
{ending}
"""


def config(canaries, port, records):
    """A sender's configuration with a secret wherever one can be; experiments are recorded in `records`."""
    return {
        "env": {
            "API_TOKEN": canaries["env_token"],
            "MY_PASSWORD": canaries["env_password"],
            "MY_API_KEY": canaries["position"],
            "AWS_ACCESS_KEY_ID": "AKIACANARY",
            "AWS_SECRET_ACCESS_KEY": canaries["env_aws_secret"],
            "SERVICE_CREDENTIALS": json.dumps({"private_key": canaries["env_json"]}),
        },
        "storage": {
            "type": "s3",
            "endpoint": f"http://127.0.0.1:{port}",
            "bucket": "data",
            "credentials": _aws(canaries["storage_key"], canaries["storage_secret"]),
        },
        "database": {
            "type": "local",
            "endpoint": str(records),
            "bucket": "db",
            "credentials": _aws("AKIADATABASE", canaries["database_secret"]),
        },
        "pip": [f"--extra-index-url=http://me:{canaries.quoted('pip_password')}@127.0.0.1:{port}/pip"],
        "cloud": {"queue": {"rmq": f"amqp://me:{canaries.quoted('rmq_password')}@127.0.0.1:1/"}},
        "server": {"authentication": "token", "token": canaries["server_token"]},
        "runner": {"slack_destination": "#canaries"},
    }


def refused_database(canaries, port):
    """For records that nobody takes."""
    return {
        "type": "s3",
        "endpoint": f"http://me:{canaries.quoted('database_password')}@127.0.0.1:{port}",
        "bucket": "records",
        "credentials": _aws("AKIADATABASE", canaries["database_secret"]),
    }


def credentials(canaries):
    """For artifacts, in all forms that there are."""
    return {
        **_aws(canaries["artifact_key"], canaries["artifact_secret"], canaries["artifact_session"]),
        "plain": {"user": "me", "password": canaries["plain_password"]},
        "jwt": {"token": canaries["jwt_token"]},
    }


def _aws(key, secret, session=None):
    found = {"access_key": key, "secret_access_key": secret, "region": "us-east-1", "session_token": session}
    return {"aws": {name: value for name, value in found.items() if value is not None}}


def environ(canaries, port, registry):
    """What an operator gives the runner."""
    registry.write_text(json.dumps({"auths": {"127.0.0.1:1": {"auth": _login(canaries["own_registry"])}}}))
    registry.chmod(0o600)
    return {
        "AWS_ACCESS_KEY_ID": "AKIAOPERATOR",
        "AWS_SECRET_ACCESS_KEY": canaries["own_aws_secret"],
        "AMQP_URL": f"amqp://me:{canaries.quoted('own_amqp_password')}@127.0.0.1:1/",
        "STUDIO_RUNNER_HTTP_TOKEN": canaries["own_http_token"],
        "STUDIO_RUNNER_REPORTS_SLACK_TOKEN": canaries["own_slack_token"],
        "STUDIO_RUNNER_REPORTS_SLACK_URL": f"http://127.0.0.1:{port}/services/{canaries.quoted('own_slack_path')}",
        "STUDIO_RUNNER_REPORTS_WEBHOOKS": f"http://127.0.0.1:{port}/hook?key={canaries.quoted('own_webhook')}",
        "STUDIO_RUNNER_REGISTRY_AUTH": str(registry),
    }


def _login(password):
    return base64.b64encode(f"me:{password}".encode()).decode()


def files_below(top, *, but=None):
    """What is in the files there, by their paths."""
    found = {}
    for path in top.rglob("*"):
        if path.is_file() and not (but and but.search(str(path))):
            with suppress(FileNotFoundError):
                found[str(path)] = path.read_bytes()
    return found
