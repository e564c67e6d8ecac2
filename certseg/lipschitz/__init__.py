"""Networks with a Lipschitz constant, its proof, and what a perturbation can do within it.

``layers`` are building blocks with a known constant and ``networks`` segmenters made of them; ``norms`` and
``resampling`` bound the linear maps inside, from which ``audit`` proves the constant of a whole network; ``worst_case``
says what an attacker can reach with it.
"""
