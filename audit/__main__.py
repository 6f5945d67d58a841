"""`python -m audit [CHECK...]`: exit code 1 for a problem, and with AUDIT_REQUIRED=1 also for what could not be
looked at. ADVISORIES names a checkout of the Python packaging advisory database, which is then asked instead."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from audit.licences import check_licences
from audit.pins import DEV, RUN, check_pins, pins_in
from audit.report import Report
from audit.secrets import check_secrets
from audit.upstream import check_declared, check_vulnerabilities, check_yanked

ROOT = Path(__file__).parents[1]


def main(names: list[str]) -> int:
    files = pins_in(ROOT / "requirements")
    advisories = Path(os.environ["ADVISORIES"]) if os.environ.get("ADVISORIES") else None
    checks: dict[str, Callable[[], Report]] = {
        "pins": lambda: check_pins(ROOT),
        "declared": lambda: check_declared(ROOT),
        "licences": lambda: check_licences(files[RUN]),
        "yanked": lambda: check_yanked(ROOT),
        "vulnerabilities": lambda: check_vulnerabilities(ROOT, files[DEV], advisories),
        "secrets": lambda: check_secrets(ROOT),
    }
    chosen = names or list(checks)
    if unknown := set(chosen) - set(checks):
        sys.stderr.write(f"There is no check {', '.join(sorted(unknown))}; there are {', '.join(checks)}\n")
        return 2
    with ThreadPoolExecutor() as pool:  # most of them wait for other programs
        reports = list(pool.map(lambda name: checks[name](), chosen))
    for report in reports:
        print("\n".join(report.lines()), flush=True)
    required = os.environ.get("AUDIT_REQUIRED") == "1"
    return int(any(report.problems or (required and report.missed) for report in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
