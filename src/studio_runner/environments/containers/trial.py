"""Trying whether containers start here, without an image of anybody's."""

from pathlib import Path

from studio_runner.environments.containers.failure import explained, fatal_words, is_about_room, last_words
from studio_runner.environments.containers.isolation import Box
from studio_runner.environments.containers.launch import Launch
from studio_runner.environments.programs import Programs
from studio_runner.errors import EnvironmentFailedError, EnvironmentUnavailableError

_PROGRAM = "/studio-runner-nothing"
_FOLDERS = ("dev", "proc", "sys", "tmp", "var/tmp", "etc", "home", "root")


async def start_nothing(programs: Programs, launch: Launch, box: Box, image: Path) -> EnvironmentFailedError | None:
    """Start an empty container, which is made at `image`; None when all that was missing was a program in it."""
    for name in _FOLDERS:
        (image / name).mkdir(parents=True)
    lines: list[str] = []
    command = launch.command(("exec", str(image), _PROGRAM), box, {}, box.directory)
    code = await programs.run(command, lines.append)
    words = fatal_words(code, "\n".join(lines).encode())
    if words is not None and _PROGRAM in words:
        return None
    sentence, hint = explained(last_words(lines) or f"it ended with {code}, without a word", image)
    kind = EnvironmentUnavailableError if is_about_room(sentence) else EnvironmentFailedError
    return kind(sentence, hint=hint)
