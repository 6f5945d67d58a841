"""The machine's GPUs: what there is, who has it, and whether it is well."""
