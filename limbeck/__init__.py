"""The command line, and what connects the other packages: runs, stages, studies, evaluation."""

__version__ = "0.1.0"
