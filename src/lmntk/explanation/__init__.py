"""Questions to a kept training: which texts a prediction comes from, what would have happened, what to label next."""
