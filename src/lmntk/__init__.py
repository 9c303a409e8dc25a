"""Tangent kernels of pre-trained language models under fine-tuning: computed, solved, explained."""

__version__ = "0.1.0"
