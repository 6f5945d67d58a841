"""Fan tasks out with the client's completion service, gather what they return, and say it as JSON."""

import json
import sys

from studio.completion_service import CompletionService

queue, task, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
configuration = {"queue": queue, "resources_needed": {}, "sleep_time": 1, "timeout": 100}
gathered = {}
with CompletionService("fan", cs_config=configuration) as service:
    numbers = {service.submitTaskWithFiles(task, {"number": n}, {"extra": task}): n for n in range(count)}
    while len(gathered) < count:
        found = service.getResultsWithTimeout(120)
        if found is None:
            break
        gathered[numbers[found[0]]] = found[1]
print(json.dumps(gathered))
