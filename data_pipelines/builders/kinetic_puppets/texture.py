"""Cloth, skin and surfaces, as small RGB pictures."""

import colorsys
import dataclasses

import numpy as np

PATTERNS = ('plain', 'bands', 'stripes', 'plaid', 'dots', 'noise')

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Cloth:
    """A cover with a pattern.

    Attributes:
        colour: RGB, 0 to 255.
        second: the pattern's other colour.
        pattern: one of `PATTERNS`; bands run across the length, stripes along it.
        pitch: metres a repeat of the pattern takes.
        seed: of the noise.
    """

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: str = 'plain'
    pitch: float = 0.1
    seed: int = 0

    def patch(self, width: float, length: float, *, rounded: float = 0.45) -> np.ndarray:
        """uint8 [48, 32, 3]: `length` metres of it down, `width` across, darker towards the sides by `rounded`."""
        across, along = np.linspace(-0.5, 0.5, 32), np.linspace(0.0, 1.0, 48)[:, None]
        x, y = across * width / self.pitch, along * length / self.pitch
        bands, stripes = (y % 1.0 < 0.5) + 0 * x, (x % 1.0 < 0.5) + 0 * y
        amount = {
            'plain': lambda: 0 * (x + y),
            'bands': lambda: bands,
            'stripes': lambda: stripes,
            'plaid': lambda: (bands + stripes) / 2,
            'dots': lambda: np.hypot(x % 1.0 - 0.5, y % 1.0 - 0.5) < 0.32,
            'noise': lambda: np.kron(np.random.default_rng(self.seed).random((12, 8)), np.ones((4, 4))),
        }[self.pattern]()
        colour = np.multiply.outer(1 - amount, self.colour) + np.multiply.outer(amount, self.second)
        shade = 1.04 - rounded * (2 * np.abs(across)) ** 2.5
        return np.clip(colour * shade[None, :, None], 0, 255).astype(np.uint8)


def random_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """RGB of any hue, with saturation and value (0 to 1) from the ranges."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return 255 * red, 255 * green, 255 * blue


def random_cloth(rng: np.random.Generator, patterned: float = 0.6) -> Cloth:
    """Clothing, with a pattern in `patterned` of the cases."""
    colour = random_colour(rng, (0.35, 0.95), (0.35, 1.0))
    if rng.random() < 0.25:
        colour = random_colour(rng, (0.0, 0.15), (0.12, 1.0))
    second = random_colour(rng, (0.0, 0.9), (0.1, 1.0))
    pattern = str(rng.choice(PATTERNS[1:])) if rng.random() < patterned else 'plain'
    return Cloth(colour, second, pattern, rng.uniform(0.06, 0.16), int(rng.integers(1 << 30)))


def skin_cloth(rng: np.random.Generator) -> Cloth:
    """Skin between dark and light."""
    light, dark = np.array([240, 198, 168]), np.array([92, 58, 40])
    return Cloth(tuple(dark + rng.random() * (light - dark)))
