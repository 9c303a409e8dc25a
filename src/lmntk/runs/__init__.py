"""runs/: what is kept of a run: splits, keys, records, the store, and reading them back."""
