"""steps/: the kinds of work that a run is a loop over, and what they share."""
