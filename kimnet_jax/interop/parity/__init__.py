"""The same numbers as PyTorch: both networks with the same weights and batch, compared module by module and step by step.

The reference is PyTorch's twin in float64. Beside our error always stands PyTorch's own in the precision that is compared: two
correct implementations differ by what each of them rounds, and nothing closer can be asked for.
"""

from kimnet_jax.interop.parity.comparison import compare
from kimnet_jax.interop.parity.pair import precisions

__all__ = ['compare', 'precisions']
