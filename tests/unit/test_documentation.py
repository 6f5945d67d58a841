import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_page_can_be_found_from_the_readme():
    found, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in found:
            continue
        found.add(page)
        for target in LINK.findall(page.read_text()):
            there = (page.parent / target).resolve()
            if there.suffix == ".md" and there.exists():
                todo.append(there)
            elif there.is_dir():
                todo += there.glob("*.md")
    lost = {page for page in PAGES if page not in found} - {ROOT / "CONTRIBUTING.md", ROOT / "docs" / "README.md"}
    assert not lost
