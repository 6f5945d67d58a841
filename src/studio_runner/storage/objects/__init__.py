"""Objects across the network: S3 and what speaks like it, Google Cloud Storage, plain web servers."""
