"""Is fine-tuning a kernel? The regime, by how much the kernel's forecast missed, and the paper's three tests."""
