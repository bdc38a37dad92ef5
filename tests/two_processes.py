"""Two processes of a script that train one model together."""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

from paths import ROOT, TESTS


def two_processes(script, folder, addresses):
    """Runs a script of tests in two processes until both have ended, or one has failed.

    Args:
        script: The script, which takes the folder, its number, and addresses.
        folder: Where it writes what it has found, as "0.json" and "1.json".
        addresses: Where the two meet.

    Returns:
        What each has found.
    """
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT}"}
    environment.pop("TF_CONFIG", None)
    with ExitStack() as running:
        processes = []
        for index in range(2):
            log = running.enter_context(open(folder / f"{index}.log", "w"))
            command = [sys.executable, TESTS / script, folder, str(index), *addresses]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.kill)  # Neither is left to wait for one that has failed.
            processes.append(process)
        codes, patience = [None], time.monotonic() + 300
        while None in codes and not any(codes) and time.monotonic() < patience:
            time.sleep(0.1)
            codes = [process.poll() for process in processes]
    assert codes == [0, 0], [(folder / f"{index}.log").read_text()[-3000:] for index in range(2)]
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]
