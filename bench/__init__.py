"""Benchmarks, each figure beside its physical limit in the same run: `python -m bench [--quick] [NAME ...]`."""
