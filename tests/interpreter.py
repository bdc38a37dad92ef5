"""Python in a process of its own."""

import subprocess
import sys


def fresh(code):
    """Runs code in an interpreter of its own and returns what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
