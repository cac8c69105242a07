"""The lowest package: query, role, label and task, the normaliser, the codec, and reading of data."""
