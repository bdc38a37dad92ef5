"""Runs keras-cam in the process of the test, or Python in one of its own."""

import os
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from click.testing import CliRunner

from keras_cam_callbacks.cli import main

ROOT = Path(__file__).parents[1]
# From 8.2 on Click keeps stdout and stderr apart anyway.
APART = {"mix_stderr": False} if version("click").startswith("8.1.") else {}


def run(*arguments):
    return CliRunner(**APART).invoke(main, list(map(str, arguments)))


def run_python(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


def processor_seconds(code, *arguments):
    """The least processor time of four runs, in s: other processes on the machine count little in it."""
    seconds = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_python(code, *arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)
