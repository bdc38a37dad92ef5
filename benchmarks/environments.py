"""Virtual environments with pinned versions, one for each library, made with the standard library and pip."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = "ours"
PINNED = ("tensorflow==2.21.0", "keras==3.15.1", "numpy==2.2.6", "scipy==1.15.3", "opencv-python==4.13.0.92")
# What pip installs into each environment, one call a line, besides PINNED.
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    OURS: (),
    "tf_explain": (("tf-explain==0.3.1",),),
    "tf_keras_vis": (("tf-keras-vis==0.8.7",),),
    # It asks for TensorFlow 2.20 at most, with the libraries for GPUs: without its dependencies it runs on 2.21, too.
    "xplique": (
        (
            *("deprecated==1.2.18", "einops==0.8.1", "matplotlib==3.10.3", "scikit-image==0.25.2"),
            *("scikit-learn==1.7.2", "tensorflow-probability==0.25.0", "tf-keras==2.21.0"),
        ),
        ("--no-deps", "xplique==2.0.2"),
    ),
}


def environment(folder: Path, name: str) -> str:
    """Makes an environment unless it is there as wanted; returns its interpreter.

    Args:
        folder: Where all environments are.
        name: Key in ENVIRONMENTS. The one of ours gets the package as it is now, in any case.
    """
    home, own = folder / name, _own() if name == OURS else []
    python = str(home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    mark, wanted = home / "made.json", json.dumps([PINNED, ENVIRONMENTS[name], own])
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
        print(f"Making the environment {name} ...", flush=True)
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([*pip, *PINNED, *own], check=True)
        for line in ENVIRONMENTS[name]:
            # The pinned ones stay, whatever a library asks for.
            subprocess.run([*pip, *line, *(() if "--no-deps" in line else PINNED)], check=True)
        mark.write_text(wanted, encoding="utf-8")
    if name == OURS:
        # As users have it, with compiled modules; from a copy, for pip builds where the source is.
        with tempfile.TemporaryDirectory() as copied:
            for item in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / item, copied)
            shutil.copytree(ROOT / "keras_cam_callbacks", Path(copied) / "keras_cam_callbacks")
            subprocess.run([*pip, "--no-deps", "--force-reinstall", copied], check=True)
    return python


def _own() -> list[str]:
    """What setup.cfg says that we need, less what is pinned."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    pinned = {line.partition("==")[0] for line in PINNED}
    lines = settings["options"]["install_requires"].split()
    return [line for line in lines if line.partition(">")[0] not in pinned]
