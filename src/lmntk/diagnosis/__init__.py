"""Is fine-tuning a kernel? What the kernel predicts of training, what training did, and a verdict."""
