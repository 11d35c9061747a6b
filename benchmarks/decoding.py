"""How far decoding is off near the border: `python benchmarks/decoding.py`.

Gaussians whose centres lie at even distances within a column of cells, 200 to a column, in maps of 64 x 64; with the noise that
is named, from a fixed seed. `dark, across` blurs across the border too, as DARK's code does.
"""

import numpy as np

from kimnet_jax.core.heatmap import cells_to_pixels, decode, encode
from kimnet_jax.reporting.tables import table

SIZE, CENTRES = 64, 200
COLUMNS = (2, 3, 4, 5, 20)  # of the cells that hold the centres; dark leaves 0 and 1 as argmax finds them
CASES = ((2.0, 2.0, 0.0), (2.0, 2.0, 0.02), (3.0, 3.0, 0.0), (3.0, 2.0, 0.0))  # width of the Gaussians, sigma of dark, noise
METHODS = ('argmax', 'quarter', 'dark', 'dark, across')


def gaussians(column: int, width: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """(centres [N, 2] in cells, maps [N, h, w, 1])."""
    offsets = np.linspace(-0.49, 0.49, CENTRES)
    centres = np.stack([column + offsets, 30 + 7 * offsets], -1)
    maps = encode(cells_to_pixels(centres, 4)[:, None], (SIZE, SIZE), sigma=width)
    return centres, maps + np.float32(noise) * np.random.default_rng(0).standard_normal(maps.shape, np.float32)


def error(column: int, width: float, sigma: float, noise: float, method: str) -> float:
    """Mean distance, cells."""
    centres, maps = gaussians(column, width, noise)
    around = SIZE if method == 'dark, across' else 0  # zeros beyond the border make it no border
    maps = np.pad(maps, ((0, 0), (around, around), (around, around), (0, 0)))
    positions, _ = decode(maps, method.partition(',')[0], sigma=sigma)  # type: ignore[arg-type]
    return float(np.linalg.norm(positions[:, 0] - around - centres, axis=-1).mean())


def main() -> None:
    for width, sigma, noise in CASES:
        print(f'\nGaussians of sigma {width:g} with noise {noise:g}, decoded with sigma {sigma:g}: mean error, cells\n')
        rows = [[method, *(f'{error(c, width, sigma, noise, method):.3f}' for c in COLUMNS)] for method in METHODS]
        print(table(['centre in column', *map(str, COLUMNS)], rows))


if __name__ == '__main__':
    main()
