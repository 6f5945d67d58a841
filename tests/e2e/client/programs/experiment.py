"""Say as JSON what the client's own library knows of an experiment."""

import json
import sys

from studio import model

FIELDS = ("status", "time_added", "time_started", "time_last_checkpoint", "time_finished", "owner", "project")

with model.get_db_provider(model.get_config()) as database:
    experiment = database.get_experiment(sys.argv[1], getinfo=False)
    print(json.dumps({name: getattr(experiment, name) for name in FIELDS}))
