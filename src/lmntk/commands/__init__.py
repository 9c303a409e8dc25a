"""The commands of the command line that stand on their own, one a module."""
