"""What the runner would make of the container that a request asks for."""

from studio_runner.cli.checkup.containers import tried
from studio_runner.cli.checkup.finding import Finding, Here, ok, problem
from studio_runner.environments.images.getting import inquiry
from studio_runner.environments.images.reference import REGISTRIES, is_reference
from studio_runner.errors import EnvironmentFailedError, StudioRunnerError
from studio_runner.messages.artifact import Artifact
from studio_runner.messages.request import Request
from studio_runner.runner.images import IMAGE, registry_image
from studio_runner.runner.policy import objections

_MEND = "Send it to a queue whose runners do; docs/how-to/use-containers.md says what decides."


async def container(request: Request, here: Here) -> list[Finding]:
    """Whether this runner would leave the request to others, or what it runs in."""
    image = request.artifacts.get(IMAGE)
    why = objections(request, here.settings.containers, await _obstacle(here) if image else "")
    found = [problem("container", f"this runner leaves it to others: {sentence}", _MEND) for sentence in why]
    if image and not why:
        found.append(ok("container", f"it runs in the image {image.address}"))
    return found


async def _obstacle(here: Here) -> str:
    """Why an empty container does not start, as the runner would find out."""
    if here.settings.containers.use == "refused":
        return ""
    try:
        _, trouble = await tried(here)
    except EnvironmentFailedError as error:
        return str(error)
    return str(trouble) if trouble else ""


def own_python(request: Request, here: Here) -> Finding:
    """Which interpreter it is only the image knows."""
    if request.experiment.filename is None:
        return ok("environment", "whatever the image's own program brings")
    asked = f"Python {request.pythonver}, or the next best" if request.pythonver else "Python"
    lines = (*request.experiment.pythonenv, *request.config.pip)
    if not lines:
        packages = ""
    elif here.settings.containers.environments:
        packages = "; its requirements are installed for it (--container-environments)"
    else:
        packages = "; its requirements are left out: the image is expected to have what the script needs"
    return ok("environment", f"the image's own {asked}{packages}")


def is_pulled(artifact: Artifact) -> bool:
    """Whether a registry has it, and no store."""
    return artifact.label == IMAGE and is_reference(artifact.location.scheme)


def image_at_registry(artifact: Artifact, here: Here) -> Finding:
    """Whether it is there, with the credentials that the runner would have for it; blocking."""
    subject = f"artifact {artifact.label}"
    try:
        source = registry_image(artifact)
        if source.reference.scheme not in REGISTRIES:
            return ok(subject, f"{source.name}: only pulling it tells whether it is there")
        return ok(subject, f"{source.name} is {inquiry(source, here.settings.containers).version()}")
    except StudioRunnerError as error:
        return problem(subject, str(error), error.hint or "")
