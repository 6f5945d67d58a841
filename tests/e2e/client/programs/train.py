"""What an experimenter writes: it uses the client's library for its artifacts."""

import json
import os
import sys

import numpy
import studio
from studio import fs_tracker

print("arguments", json.dumps(sys.argv[1:]))
print("python %d.%d" % sys.version_info[:2], "beside", os.path.basename(os.path.dirname(studio.__file__)))
with open(os.path.join(fs_tracker.get_model_directory(), "weights"), "w") as weights:
    weights.write("%.1f" % numpy.mean([1.0, 2.0]))
with open("../tb/events", "w") as events:
    events.write("loss 0.5")
print(json.dumps({"accuracy": 0.875}))
