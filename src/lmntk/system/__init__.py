"""system/."""
