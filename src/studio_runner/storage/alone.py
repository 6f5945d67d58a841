"""Archives of one file, for clients that take the file out of them where others keep the directory."""

import math
from dataclasses import dataclass

from studio_runner.storage.tar import FILE, Member


@dataclass(frozen=True)
class Alone:
    """How the file that is all an archive holds is announced there: `prefix` goes before its name, and it is never
    older than `not_before` (Unix seconds)."""

    prefix: bytes
    not_before: float

    def announced(self, member: Member) -> Member:
        if member.kind != FILE:
            return member
        earliest = math.ceil(self.not_before) * 1_000_000_000
        return member._replace(name=self.prefix + member.name, mtime=max(member.mtime, earliest))
