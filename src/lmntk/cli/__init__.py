"""cli/: commands, their options, and progress bars."""
