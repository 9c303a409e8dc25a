"""kernels/: mathematics on tangents: the formulas, two exact contractions, Gram matrices."""
