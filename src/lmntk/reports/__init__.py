"""reports/: pages and tables of a run."""
