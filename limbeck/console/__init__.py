"""The web console: where people look, correct and decide."""
