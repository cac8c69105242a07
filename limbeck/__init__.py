"""The roof: command line, pipeline, run folders, console."""

__version__ = "0.1.0"
