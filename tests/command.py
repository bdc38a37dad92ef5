"""Runs keras-cam in the process of the test."""

from importlib.metadata import version

from click.testing import CliRunner

from keras_cam_callbacks.cli import main

# From 8.2 on Click keeps stdout and stderr apart anyway.
APART = {"mix_stderr": False} if version("click").startswith("8.1.") else {}


def run(*arguments):
    return CliRunner(**APART).invoke(main, list(map(str, arguments)))
