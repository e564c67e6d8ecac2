"""Randomized smoothing, built from four parts.

``noise`` draws from a distribution and knows the radius it certifies; ``sampling`` counts what a network says under it;
``stopping`` decides how many samples to draw and which pixels they certify; ``statistics`` has the tests behind that.
"""
