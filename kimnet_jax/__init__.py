"""KIMNet and HANet in JAX: video-based human pose estimation with a kinematics modeling module."""

__version__ = '0.1.0'
