"""Experiments with known results, a cluster of this machine, and a storm that nothing of them may be lost in."""
