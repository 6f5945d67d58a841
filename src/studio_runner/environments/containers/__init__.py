"""Experiments in containers, with Apptainer or Singularity.

Start reading at `provider`; `isolation` says what a container sees of the machine, `runtime` what does the work.
"""
