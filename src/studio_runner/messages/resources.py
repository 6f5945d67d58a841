"""What an experiment needs of a machine (INTERFACE section 3)."""

from pydantic import Field

from studio_runner.messages.fields import Count, Model, Size


class Resources(Model):
    """Sizes in bytes; 0 means no requirement. `gpus` counts slots (a measure of throughput), `gpu_count` cards."""

    cpus: Count = 0
    ram: Size = 0
    hdd: Size = 0
    gpus: Count = 0
    gpu_mem: Size = Field(default=0, alias="gpuMem")
    gpu_count: Count = Field(default=0, alias="gpuCount")
