"""Questions to a kept training: whom a prediction is owed to, what would have happened, what to label next."""
