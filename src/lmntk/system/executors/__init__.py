"""executors/: where jobs run, in this process or on a Ray cluster. Handed work, it knows no kernel."""
