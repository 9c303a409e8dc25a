"""Is fine-tuning a kernel? What its kernel says of training, what training did, the regime, the forecast's miss, and the paper's three tests."""
