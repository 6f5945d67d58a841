"""Which symbolic links may stand in an artifact: those that stay inside it."""

from posixpath import normpath


def confined(target: bytes, depth: int) -> bytes | None:
    """The target of a link that stands `depth` directories below the artifact's own, or None when it leads out.

    A path may climb only at its start: there every step leaves a real directory. After a name, which may be a link
    itself, `..` could lead anywhere, so such a target is written without that detour.
    """
    if not target or target.startswith(b"/"):
        return None
    steps = [step for step in target.split(b"/") if step not in (b"", b".")]
    climbs = _climbs(steps)
    if b".." in steps[climbs:]:
        target = normpath(target)
        climbs = _climbs(target.split(b"/"))
    return target if climbs <= depth else None


def _climbs(steps: list[bytes]) -> int:
    return next((count for count, step in enumerate(steps) if step != b".."), len(steps))
