"""From a delivery to a settled outcome. Start reading at `daemon`, then `intake`, then `attempt`."""
