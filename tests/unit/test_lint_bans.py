"""What must never come back into the program: each is written here as a file of it, and `make lint` must refuse it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUFF = Path(sys.executable).parent / "ruff"
NEVER = re.search(r"^NEVER := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]

FORBIDDEN = {
    "pickle": "import pickle\npickle.loads(b'')",
    "marshal": "import marshal",
    "shelve": "from shelve import open",
    "eval": "eval('1')",
    "exec": "exec('1')",
    "shell": "import subprocess\nsubprocess.run('ls', shell=True)",
    "system": "import os\nos.system('ls')",
    "popen": "from os import popen",
    "shell of asyncio": "import asyncio\nasyncio.create_subprocess_shell('ls')",
    "yaml": "import yaml\nyaml.load(b'', yaml.Loader)",
    "mktemp": "import tempfile\ntempfile.mktemp()",
    "tar": "import shutil\nshutil.unpack_archive('a.tar')",
    "sax": "from xml.sax import parse",
    "dom": "from xml.dom import minidom",
    "tree": "from xml.etree import ElementTree\nElementTree.parse('a.xml')",
    "certificates": "import ssl\nssl.CERT_NONE",
}


@pytest.mark.parametrize("code", FORBIDDEN.values(), ids=FORBIDDEN)
def test_lint_refuses_it_whatever_a_comment_says(code):
    excused = "\n".join(f"{line}  # noqa" for line in code.splitlines())
    done = subprocess.run(
        [RUFF, "check", "--ignore-noqa", "--select", NEVER, "--stdin-filename", "src/studio_runner/new.py", "-"],
        input=excused, capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "new.py" in done.stdout
