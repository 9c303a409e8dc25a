"""Tangent kernels of pre-trained language models under fine-tuning: computed, solved, explained.

The folders read as the pipeline, and each knows only those to its left (docs/architecture.md has them all):

    tasks -> prompts -> models -> tangents -> kernels -> engine, solvers -> runs -> reports -> experiment -> cli

One letter code for axes holds everywhere: n, m examples (training, evaluation); c, d logits; t, s tokens;
i, o a layer's input and output; p coordinates of a parameter; r rows.

``__init__.pyi`` says which names are public and where they live. They are imported when they are first used.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
