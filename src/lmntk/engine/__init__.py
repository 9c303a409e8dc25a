"""engine/."""
