"""models/: logits. A LogitModel maps a batch of tokens to logits [n, c]; later folders know no more."""
