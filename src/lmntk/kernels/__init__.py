"""kernels/: Gram matrices of tangents, by two exact contractions, in tiles, in bounded memory."""
