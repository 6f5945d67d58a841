"""`studio-runner`, on a machine of which it believes that it has four cores: small machines run the same tests."""

import os
import sys

from studio_runner.cli.main import main

os.sched_getaffinity = lambda pid: {0, 1, 2, 3}
sys.exit(main())
