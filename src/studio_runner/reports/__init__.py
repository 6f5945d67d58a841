"""Events that leave the runner; a reporter may drop, it never fails an experiment."""
