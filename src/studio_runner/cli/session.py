"""What one call of the command line knows before its command runs: where to read settings, how to show errors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reading settings takes ten times as long as printing the version
    from studio_runner.config.cascade import Configuration
    from studio_runner.messages.masking import Masker, Secrets


@dataclass
class Session:
    """Filled by the options that every command has (`cli.options`); `main` owns it."""

    environ: Mapping[str, str]
    debug: bool = False
    config_file: Path | None = None
    flags: dict[str, object] = field(default_factory=dict)
    """What the command line says about settings, by key."""
    umask: int = 0o022
    """As the person has it: for what is brought to a place of theirs."""

    _secrets: "Secrets | None" = None
    _findings: list[Callable[[], Iterable[str]]] = field(default_factory=list)

    def hide(self, find: Callable[[], Iterable[str]]) -> None:
        """Hide what this finds in all that is said from now on. Most commands say nothing and need not look."""
        self._findings.append(find)

    @property
    def secrets(self) -> "Secrets":
        """What nobody is to see; those who learn of more add it."""
        from studio_runner.messages.masking import Secrets

        if self._secrets is None:
            self._secrets = Secrets()
        while self._findings:
            self._secrets.learn(self._findings.pop()())
        return self._secrets

    def masker(self) -> "Masker":
        """Hides them in what is about to be said."""
        return self.secrets.masker

    def configuration(self) -> "Configuration":
        """Read the settings; ConfigError when they cannot be used."""
        from studio_runner.config import cascade

        flags = {"log.level": "debug", **self.flags} if self.debug else self.flags
        return cascade.load(self.environ, flags, self.config_file)
