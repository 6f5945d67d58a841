"""The request message: one experiment and the configuration of its sender (INTERFACE section 1)."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.artifact import (
    Artifact,
    Artifacts,
    AwsCredentials,
    Credentials,
    credentials_in_address,
)
from studio_runner.messages.crowds import MOST_ADDRESSES, MOST_SECRETS, has_too_many_secrets
from studio_runner.messages.fields import (
    NOTHING,
    Duration,
    Filename,
    Key,
    Lines,
    Model,
    PythonVersion,
    SystemText,
    UnixTime,
    Variables,
    Words,
    or_empty_object,
)
from studio_runner.messages.jsontext import read_json
from studio_runner.messages.resources import Resources
from studio_runner.messages.validation import invalid_message

MAX_BODY = 64 << 20
"""Bytes of the longest message that is read."""

_SHORT = 48
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]|^\.")
_ENDS_LIKE_A_HASH = re.compile(r"-[0-9a-f]{8}$")


class Experiment(Model):
    """`$.experiment`. What the runner passes on unread has type Any."""

    key: Key
    status: Any = None
    pythonver: PythonVersion = ""
    filename: Filename | None = None
    args: Words = Field((), repr=False)
    max_duration: Duration = None
    time_added: UnixTime = None
    pythonenv: Lines = Field((), repr=False)
    resources_needed: Resources | None = None
    artifacts: Artifacts = Field({}, repr=False)
    project: Any = None
    project_version: Any = None
    project_experiment: Any = None
    author: Any = None
    owner: Any = None
    metric: Any = None
    git: Any = Field(None, repr=False)
    info: Any = Field(None, repr=False)
    time_started: Any = None
    time_finished: Any = None
    time_last_checkpoint: Any = None


class StoreConfig(Model):
    """`$.config.storage` and `$.config.database`."""

    type: SystemText | None = None
    endpoint: SystemText | None = Field(None, repr=False)
    bucket: SystemText | None = None
    authentication: Any = None
    credentials: Credentials | None = Field(None, repr=False)


class RunnerConfig(Model):
    """`$.config.runner`."""

    slack_destination: str | None = None


class Config(Model):
    """`$.config`."""

    experiment_lifetime: Duration = Field(None, alias="experimentLifetime")
    save_workspace_frequency: Duration = Field(None, alias="saveWorkspaceFrequency")
    save_metrics_frequency: Duration = Field(None, alias="saveMetricsFrequency")
    env: Variables = Field({}, repr=False)
    verbose: Any = None
    database: StoreConfig | None = None
    storage: StoreConfig | None = None
    runner: RunnerConfig | None = None
    cloud: Any = Field(None, repr=False)
    resources_needed: Resources | None = None
    pip: Lines = Field((), repr=False)
    optimizer: Any = Field(None, repr=False)
    server: Any = Field(None, repr=False)


class RequestMessage(Model):
    """The whole message, as a model."""

    experiment: Experiment
    config: Annotated[Config, BeforeValidator(or_empty_object, json_schema_input_type=Config | None)] = Field(
        default_factory=Config
    )


@dataclass(frozen=True)
class Request:
    """A request that was read. `document` is the message as it came and is not to be changed; `replace` makes
    another."""

    experiment: Experiment
    config: Config
    document: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)

    def to_json(self) -> bytes:
        """The message again, every field as it was spelled."""
        return self.body

    def replace(self, **experiment: Any) -> "Request":
        """The same request with these fields of `$.experiment` changed, in the message's spelling."""
        changed = {**self.document, "experiment": {**self.experiment_document, **experiment}}
        return parse_request(json.dumps(changed).encode())

    @property
    def experiment_document(self) -> Mapping[str, Any]:
        """`$.experiment` as it came; not to be changed."""
        experiment: Mapping[str, Any] = self.document["experiment"]
        return experiment

    @property
    def key(self) -> str:
        return self.experiment.key

    @property
    def pythonver(self) -> str:
        """Prefix of the wanted interpreter's version; "" for any."""
        return self.experiment.pythonver

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        return self.experiment.artifacts

    @property
    def environment_variables(self) -> Mapping[str, str]:
        """As sent: `messages.variables.expand` puts the runner's own variables in."""
        return self.config.env

    @cached_property
    def resources(self) -> Resources:
        """The experiment's own, else those of the sender's configuration."""
        wanted = (
            self.experiment.resources_needed
            if self.experiment_document.get("resources_needed")
            else self.config.resources_needed
        )
        return wanted or Resources()

    @property
    def lifetime_deadline(self) -> float | None:
        """Unix time after which the experiment must not run; None when there is none or it cannot be known."""
        added, lifetime = self.experiment.time_added, self.config.experiment_lifetime
        return added + lifetime if added is not None and lifetime is not None else None

    @property
    def checkpoint_period(self) -> float | None:
        """Seconds between two uploads of the mutable artifacts."""
        return self.config.save_workspace_frequency

    @property
    def metrics_period(self) -> float | None:
        """Seconds between two samples of `_metrics`."""
        return self.config.save_metrics_frequency

    @property
    def owner(self) -> str:
        """Whose experiment it is: `owner`, or `author` as newer clients say; "" when neither does."""
        return _said(self.experiment.owner) or _said(self.experiment.author)

    @property
    def project(self) -> str:
        return _said(self.experiment.project)

    def credentials(self, artifact: Artifact) -> Credentials | None:
        """What opens the artifact's store: its own, those in its address, those in `config.env`, those of
        `config.storage`. None: the message has none."""
        stored = self.config.storage.credentials if self.config.storage else None
        choices = (
            artifact.credentials,
            credentials_in_address(artifact.qualified),
            self._environment_credentials(),
            stored,
        )
        return next((choice for choice in choices if choice), None)

    def _environment_credentials(self) -> Credentials | None:
        env = self.config.env
        if "AWS_ACCESS_KEY_ID" not in env or "AWS_SECRET_ACCESS_KEY" not in env:
            return None
        return Credentials(
            aws=AwsCredentials(
                access_key=env["AWS_ACCESS_KEY_ID"],
                secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
                region=env.get("AWS_DEFAULT_REGION"),
                session_token=env.get("AWS_SESSION_TOKEN"),
            )
        )


def parse_request(body: bytes) -> Request:
    """Read a request; InvalidMessageError names the first value that cannot be accepted."""
    return request_of(read_message(body), body)


def read_message(body: bytes) -> Any:
    """The JSON of a message, whatever it is a message of; InvalidMessageError when there is none."""
    return read_json(body, MAX_BODY)


def request_of(document: Any, body: bytes) -> Request:
    """The request that `body` holds, which was read already."""
    if isinstance(document, dict) and has_too_many_secrets(document, body):
        raise InvalidMessageError(
            "$", f"more than {MOST_SECRETS} secrets, or {MOST_ADDRESSES} addresses", "a message with fewer"
        )
    try:
        message = RequestMessage.model_validate(document)
    except ValidationError as error:
        raise invalid_message(error) from error
    request = Request(message.experiment, message.config, document, body)
    _check_whole(request)
    return request


def _check_whole(request: Request) -> None:
    """What no single field shows."""
    experiment = request.experiment
    if experiment.filename == "-m" and not experiment.args:
        raise InvalidMessageError("$.experiment.args", "an empty array", "the module's name first (filename is -m)")
    if (experiment.filename or "").startswith("/") and "_singularity" not in experiment.artifacts:
        raise InvalidMessageError(
            "$.experiment.filename", json.dumps(experiment.filename), "a path inside the workspace, '-m' or null"
        )
    runs_script = experiment.filename not in (None, "-m") and "_singularity" not in experiment.artifacts
    if runs_script and "workspace" not in experiment.artifacts:
        raise InvalidMessageError(
            "$.experiment.artifacts.workspace", "nothing", "the artifact that holds the script `filename`"
        )


def _said(value: Any) -> str:
    return value if isinstance(value, str) and value != NOTHING else ""


def short_key(key: str) -> str:
    """The key as a file name: `[A-Za-z0-9._-]`, no leading dot, at most 48 characters, and different for different
    keys (a key that is changed, or that could be taken for a changed one, ends in a hash of the whole)."""
    safe = _UNSAFE.sub("_", key)
    if safe == key and 0 < len(key) <= _SHORT and not _ENDS_LIKE_A_HASH.search(key):
        return key
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe[: _SHORT - 9]}-{digest}"
