"""Fixtures for all tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def offline_wandb(tmp_path, monkeypatch):
    """Keeps W&B off the network and inside the test's folder, and ends what the test left running."""
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        folder = tmp_path / "wandb-state" / name.lower()
        monkeypatch.setenv(f"WANDB_{name}", str(folder))
    settings = {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    # Imported by few tests only; starting its process takes longer than most of the others.
    if "wandb" in sys.modules:
        if sys.modules["wandb"].run is not None:  # A disabled run outlives its `with` block, and teardown.
            sys.modules["wandb"].run.finish()
        sys.modules["wandb"].teardown()
