"""The commands of the command line, one module for each panel of `limbeck --help`."""
