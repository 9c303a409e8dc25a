"""experiment/: a run: its configuration, its session, the loop over steps, the report."""
