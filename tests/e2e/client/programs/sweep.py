"""Its parameter is replaced by a hyperparameter search."""

rate = 0.5
print("it is", rate)
