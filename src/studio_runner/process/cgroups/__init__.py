"""Control groups: limits that the kernel holds over a whole process tree, whatever it forks."""
