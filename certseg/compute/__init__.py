"""Where and how tensors are computed: device, threads, random numbers, forward passes, which class wins."""
