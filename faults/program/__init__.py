"""The script of the experiments; the suite imports it for the results it knows."""
