"""Where messages wait: brokers by URL scheme."""
