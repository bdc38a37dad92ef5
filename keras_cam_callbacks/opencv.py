"""OpenCV, imported in one place: where that fails, it is said what to install. Any of its wheels does."""

from __future__ import annotations

__all__ = ["cv2"]

# Both wheels put their files into one folder: who has had both must remove both.
_HEADLESS = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"


def _advice(error: ImportError) -> str:
    """Returns what to do where OpenCV can't be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name == "cv2":
        return (
            "This package draws and measures with OpenCV, in any of its wheels. Received: no module cv2. "
            "`pip install opencv-python-headless` works."
        )
    if ".so" in str(error):
        return (
            f"OpenCV needs a library of the system that is missing. Received: {error}. On Debian and Ubuntu "
            "`apt install libgl1 libglib2.0-0` brings it. Or take the wheel that does without it: "
            f"`{_HEADLESS}`."
        )
    return f"OpenCV is there, and can't be imported. Received: {error}. A new wheel may help: `{_HEADLESS}`."


try:
    import cv2

    if not hasattr(cv2, "__version__"):
        raise ImportError("a folder cv2 with nothing in it, as it is left where one of two wheels was removed")
except ImportError as _error:
    raise ImportError(_advice(_error), name="cv2") from _error
