"""Benchmarks: `python -m bench [--quick] [NAME ...]`. Each figure stands beside its physical limit, measured in the same run."""
