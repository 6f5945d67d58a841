"""Fetch an artifact with the client's own library, and say as JSON where it then is."""

import json
import sys

from studio import model

key, label = sys.argv[1:]
with model.get_db_provider(model.get_config()) as database:
    experiment = database.get_experiment(key, getinfo=False)
    print(json.dumps(database.get_artifact(experiment.artifacts[label], only_newer=False)))
