"""Making HTML so that nothing can be forgotten to be escaped: whatever is not `Markup` is text."""

import html
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """`element("a", "here", href="/x", class_="wide")`. Children that are None are left out, lists are joined; an
    attribute that is None or False is left out, True stands without a value; `data_x` is `data-x`."""
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(opened if name in _VOID else f"{opened}{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Markup:
    return Markup("".join(map(_child, children)))


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, list | tuple):
        return joined(child)
    return html.escape(_visible(str(child)))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(_visible(str(value)))}"'


def _visible(text: str) -> str:
    """Half of a surrogate pair cannot be sent, and a JSON record may well hold one."""
    return text.encode(errors="replace").decode()
