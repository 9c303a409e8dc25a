"""checkup/: is a model fit to have its kernels taken? The checks of ``lmntk check``, and their findings."""
