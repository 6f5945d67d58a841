"""What an experimenter writes: it uses the client's library for its artifacts."""

import json
import os
import sys

import numpy as np
import studio
from studio import fs_tracker

print("arguments", json.dumps(sys.argv[1:]))
print("python", *sys.version_info[:2], "with", studio.__name__)
with open(os.path.join(fs_tracker.get_model_directory(), "weights"), "w") as weights:
    weights.write(str(np.mean([1.0, 2.0])))
with open("../tb/events", "w") as events:
    events.write("loss 0.5")
print(json.dumps({"accuracy": 0.875}))
