"""checkup/: does lmntk read a model correctly? The checks of ``lmntk check``, and their findings."""
