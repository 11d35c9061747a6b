"""KIMNet and HANet in JAX: video-based human pose estimation with a kinematics modeling module."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kimnet_jax.pose import Pose

__all__ = ['Pose']
__version__ = '0.1.0'

if sys.argv[:1] == ['-m']:  # the package of a module that is about to run as a command
    from kimnet_jax.core.signals import stoppable_while_importing

    stoppable_while_importing()


def __getattr__(name: str) -> Any:
    """`Pose`, which takes seconds to import, when it is asked for."""
    if name != 'Pose':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from kimnet_jax.pose import Pose

    return Pose
