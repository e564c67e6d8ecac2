"""The door to OpenCV, whose two builds for Python, plain and headless, provide the same module ``cv2``.

mmcv and mmsegmentation ask for the plain build, which needs a display library that a bare machine lacks.
"""

from certseg.errors import DependencyError

try:
    import cv2
except ImportError as error:
    raise DependencyError(
        "OpenCV cannot be loaded",
        received=error,
        remedy="Where there is no display library, replace it by the build that needs none: "
        'pip uninstall -y opencv-python opencv-python-headless && pip install "opencv-python-headless>=4.13,<5"',
    ) from error

__all__ = ["cv2"]
