"""Attribution: which texts drive a prediction, and what would have happened without them, read off one kernel."""
