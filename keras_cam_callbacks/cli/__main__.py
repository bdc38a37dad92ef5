"""Lets `python -m keras_cam_callbacks.cli` do what `keras-cam` does."""

from . import main

if __name__ == "__main__":
    main(prog_name="keras-cam")
