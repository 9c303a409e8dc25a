"""Real fine-tuning, with which the kernels are compared, and training of the linearized model."""
