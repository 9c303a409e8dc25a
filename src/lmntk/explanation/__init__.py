"""What a kept training is asked afterwards: whom a prediction is owed to, what would have happened, what to label next."""
