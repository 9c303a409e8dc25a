"""executors/: where jobs run: here, in a thread a GPU, or on Ray. Handed work, they know no kernel."""
