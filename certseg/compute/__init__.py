"""Where and how tensors are computed.

``hardware`` has the device, precision, ranks and clocks; ``threads`` work on several cores; ``streams`` random numbers;
``forward`` forward passes that fit into memory; ``decisions`` which class wins; ``atomic`` files that are replaced as a
whole; ``kernels`` the compiled loops.
"""
