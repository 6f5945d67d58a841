"""What one call of the command line knows before its command runs: where to read settings, how to show errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reading settings takes ten times as long as printing the version
    from studio_runner.config.cascade import Configuration


@dataclass
class Session:
    """Filled by the options that every command has (`cli.options`); `main` owns it."""

    environ: Mapping[str, str]
    debug: bool = False
    config_file: Path | None = None
    flags: dict[str, object] = field(default_factory=dict)
    """What the command line says about settings, by key."""

    def configuration(self) -> "Configuration":
        """Read the settings; ConfigError when they cannot be used."""
        from studio_runner.config import cascade

        flags = {"log.level": "debug", **self.flags} if self.debug else self.flags
        return cascade.load(self.environ, flags, self.config_file)
