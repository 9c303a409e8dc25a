"""runs/."""
