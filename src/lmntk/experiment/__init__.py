"""experiment/."""
