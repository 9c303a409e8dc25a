"""Simple classifiers beside the kernel: what it has to be better than, held out on the same folds."""
