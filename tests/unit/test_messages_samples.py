"""Messages of existing clients, as they were sent."""

from pathlib import Path

import pytest

from studio_runner.messages.request import parse_request

SAMPLES = Path(__file__).parents[1] / "samples"


def sample(name):
    return parse_request((SAMPLES / f"{name}.json").read_bytes())


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_message_is_read(path):
    request = parse_request(path.read_bytes())
    assert request.to_json() == path.read_bytes()
    workspace = request.artifacts["workspace"]
    assert (workspace.unpack, workspace.bucket or "file") == (True, workspace.location.bucket or "file")
    assert all(artifact.location.key.endswith(artifact.key) for artifact in request.artifacts.values())
    assert request.resources.cpus == 1
    assert request.owner == "guest"


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("studioml-*.json")), ids=lambda path: path.stem)
def test_the_client_that_sent_a_message_is_among_its_packages(path):
    version = path.stem.split("-")[1]
    (line,) = (
        line for line in parse_request(path.read_bytes()).experiment.pythonenv if line.startswith("studioml")
    )
    assert line.startswith(f"studioml=={version}")


def test_local_storage_is_addressed_with_a_slash_missing():
    artifact = sample("studioml-0.0.49-local-storage").artifacts["output"]
    assert artifact.qualified.startswith("file://home/experimenter/")
    assert artifact.location.key.startswith("/home/experimenter/.studioml/store/experiments/local1/output.tar")


def test_the_workspace_of_a_hyperparameter_search_is_the_experiments_own():
    request = sample("studioml-0.0.49-hyperparameter")
    workspace = request.artifacts["workspace"]
    assert workspace.mutable
    assert workspace.credentials is None
    assert workspace.key == f"experiments/{request.key}/workspace.tar"
    credentials = request.credentials(workspace)
    assert credentials
    assert credentials.aws
    assert credentials.aws.access_key == "testkey"


def test_a_module_comes_as_the_first_argument():
    experiment = sample("studioml-0.0.49-module").experiment
    assert (experiment.filename, experiment.args) == ("-m", ("pkg.mod", "--epochs", "3"))


def test_captured_and_reused_artifacts():
    request = sample("studioml-0.0.49-artifacts")
    found = request.artifacts
    assert (found["other"].mutable, found["other"].unpack) == (False, True)
    assert (found["data"].mutable, found["data"].unpack) == (False, True)
    assert (found["mine"].mutable, found["mine"].unpack) == (True, True)
    assert (request.resources.gpus, request.resources.gpu_count) == (1, 1)
    assert request.experiment.max_duration == 20 * 60
    assert request.config.experiment_lifetime == 2 * 3600


def test_a_task_of_a_completion_service_has_no_output_artifact():
    request = sample("studioml-0.0.44-completion-service")
    assert set(request.artifacts) == {"args", "clientscript", "retval", "workspace"}
    assert request.experiment.filename == "completion_service_client.py"
    assert request.experiment.pythonver == "3.8"


@pytest.mark.parametrize(("version", "said"), [("0.0.35", False), ("0.0.44", True)])
def test_completion_services_can_be_told_apart(version, said):
    """By what the archive of `retval` has to look like for them."""
    document = sample(f"studioml-{version}-completion-service").experiment_document
    assert ("from_compl_service" in document) == said
