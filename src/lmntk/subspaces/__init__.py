"""Subspaces: what training a part of the parameters, or adapters of low rank, comes to beside training all."""
