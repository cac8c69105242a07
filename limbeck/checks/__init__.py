"""What can be known of a task before anything is spent: a list of small checks, and how they are shown."""
