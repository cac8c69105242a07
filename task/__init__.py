"""The lowest package: query, role, label and task, the normaliser, the codec, and reading of data."""

# Of `task.readers`. Increase this when the same file gives other rows.
READERS = 3
