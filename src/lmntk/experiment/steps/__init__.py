"""steps/."""
