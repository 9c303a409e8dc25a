"""engine/: kernels in bounded memory, resumable: batches, tiles, the budget, factors on disk, cost."""
