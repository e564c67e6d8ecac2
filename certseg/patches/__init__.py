"""What certificates against patches are made of.

``masks`` hide parts of an image, ``inpainting`` fills them again, ``copies`` holds what a network says of the filled
copies, ``voting`` which of its votes a patch cannot overturn; ``canvas`` is the attacker's side, an image with
rectangles that may be painted.
"""
