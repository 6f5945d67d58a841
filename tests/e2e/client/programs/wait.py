"""Waits until somebody opens the gate, and writes down that it began."""

import os
import time

print("waiting")
with open("../modeldir/begun", "w") as begun:
    begun.write("yes")
while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.02)
print("the gate is open")
