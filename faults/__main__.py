"""Run experiments through a storm of failures and count what came of them: exit status 1 when any is lost, has two
results, is torn or wrong."""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from faults.cluster import Account, Cluster, Wish
from faults.local import LocalSite
from faults.remote import RemoteSite
from faults.report import faulty, lines
from faults.site import Site
from servers.process import MissingServerError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--experiments", type=int, default=500, metavar="N")
    parser.add_argument("--runners", type=int, default=3, metavar="N")
    parser.add_argument("--seed", type=int, help="repeat the storm of this seed")
    parser.add_argument("--minutes", type=float, default=7.0, help="how long the storm lasts")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two troubles")
    parser.add_argument("--patience", type=float, default=5.0, metavar="MINUTES", help="for all to end afterwards")
    parser.add_argument(
        "--local", action="store_true", help="queue directories and files instead of RabbitMQ and S3"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything behind, also when nothing is wrong")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is put away then, too
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    wish = Wish(given.experiments, given.runners, seed, given.minutes * 60, given.every, given.patience * 60)
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"seed {seed}, logs in {root}", flush=True)
    try:
        site: Site = LocalSite(root) if given.local else RemoteSite(given.runners)
    except MissingServerError as error:
        print(error, file=sys.stderr)
        return 2
    account = carried_out(site, root, wish)
    print("\n".join(lines(account)))
    print(f"seed {seed}")
    if not (given.keep or faulty(account)):
        shutil.rmtree(root, ignore_errors=True)
    return int(faulty(account))


def carried_out(site: Site, root: Path, wish: Wish) -> Account:
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.1f}] {line}", flush=True)

    with site:
        return asyncio.run(Cluster(site, root, wish, say).run())


if __name__ == "__main__":
    sys.exit(main())
