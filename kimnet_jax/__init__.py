"""KIMNet and HANet in JAX: video-based human pose estimation with a kinematics modeling module."""

import sys

__version__ = '0.1.0'

if sys.argv[:1] == ['-m']:  # the package of a module that is about to run as a command
    from kimnet_jax.core.signals import stoppable_while_importing

    stoppable_while_importing()
