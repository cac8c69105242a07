"""The command line, and what chains the other packages: runs, stages, studies, judgements."""

__version__ = "0.1.0"
