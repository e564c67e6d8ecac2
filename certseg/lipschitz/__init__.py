"""Networks with a Lipschitz constant, its proof, and what a perturbation can do within it."""
