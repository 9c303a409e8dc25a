"""models/: logits. A LogitModel maps a batch of tokens to logits [n, c]; nothing to the right of this folder knows more."""
