"""checkup/: is a model fit to have its kernels taken? What ``lmntk check`` looks at, and how it says what it found."""
