"""Compiled programs are kept in the user's cache folder: the second start of a command need not compile them again."""

import os
import pathlib
from typing import Any

import jax

from kimnet_jax.core.files import cache_folder

SECONDS = 0.2  # what compiles faster is not worth a file


def keep_compiled() -> None:
    """Turns on JAX's cache of compiled programs in the user's cache folder (`core.files.cache_folder`).

    Its keys hold the program, the versions, XLA's flags and the kind of processor or accelerator. `JAX_COMPILATION_CACHE_DIR`
    chooses another folder, `JAX_ENABLE_COMPILATION_CACHE=0` turns the cache off. Where the folder cannot be made or written to,
    or others can write to it, every start compiles.
    """
    config: Any = jax.config  # whose attributes are made at run time
    if not config.jax_enable_compilation_cache or config.jax_compilation_cache_dir is not None:
        return
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # its programs are run: for its owner alone
    except (OSError, RuntimeError):  # no home, a read-only one, a file in the way
        return
    if _ours_alone(folder):
        config.update('jax_compilation_cache_dir', str(folder))
        config.update('jax_persistent_cache_min_compile_time_secs', SECONDS)


def _ours_alone(folder: pathlib.Path) -> bool:
    """Whether this user, and no other, writes there: what lies there is run."""
    status = folder.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK)
