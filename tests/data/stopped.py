"""Builds in processes of their own that stop in the middle, until they are let go on."""

import time
from collections.abc import Callable

# The build command, stopped in a picture whose path has a text in it until the file at $GATE is there; the file at $GATE.reached
# says that it is stopped. To be formatted with the module of the builder that reads them and the text.
PROGRAM = """
import importlib, os, pathlib, sys, time
from kimnet_jax.data_pipelines import build, images
from kimnet_jax.core.command import run_command

def wait(path, *args):
    if {text!r} in str(path):
        gate.with_suffix('.reached').touch()
        while not gate.exists():
            time.sleep(0.01)
    return images.read_image(path, *args)

gate = pathlib.Path(os.environ['GATE'])
importlib.import_module('kimnet_jax.data_pipelines.builders.{module}').read_image = wait
run_command(build.main, sys.argv)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for a minute at most."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError('a minute passed')
