"""tangents/: gradients. The Jacobian of a batch, factored, from one forward and c backward passes."""
