"""The uv program that is installed with the runner."""

from functools import cache
from pathlib import Path

from studio_runner.errors import EnvironmentUnavailableError


@cache
def uv_binary() -> Path:
    """Its path; EnvironmentUnavailableError when the installation is damaged."""
    import uv  # noqa: PLC0415  only where an environment is built

    try:
        return Path(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise EnvironmentUnavailableError(
            f"The uv program is missing from the runner's installation: {error}",
            hint="Install studio-runner again.",
        ) from error
