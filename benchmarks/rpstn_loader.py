"""What RPSTN's released training loader does with Penn Action and Sub-JHMDB, for `benchmarks/loader.py` to time.

A PyTorch `Dataset` over the frames of a download and their annotation: the T frames of a window at a random start are read and
decoded whole, augmented as BGR images one step after the other, and the target heatmap of every joint is drawn in NumPy. What the
two chains do stands in the release's order; where its steps could be had cheaper without another result, they are here.
"""

import pathlib
import random

import cv2
import numpy as np
import torch

SIZE, CELLS, SIGMA = 256, 64, 2.0
SCALES, DEGREES = (0.8, 1.4), 40.0
GREY = (128, 128, 128)


class Windows(torch.utils.data.Dataset):
    """Windows of T frames: images float32 [T, 3, 256, 256], 0 to 255; target heatmaps float32 [T, J, 64, 64]; points [T, J, 2].

    Attributes:
        clips: (folder of 000001.jpg, ..., joints [N, J, 2] pixels, boxes [N, 4]) of each clip.
        chain: `penn` (crop, rotate, resize, flip) or `jhmdb` (resize, rotate, crop, flip).
        frames: T.
    """

    def __init__(self, clips: list[tuple[pathlib.Path, np.ndarray, np.ndarray]], chain: str, frames: int):
        self.clips, self.frames = clips, frames
        self.augment = {'penn': _augment_penn, 'jhmdb': _augment_jhmdb}[chain]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        folder, joints, boxes = self.clips[index]
        start = random.randint(0, len(joints) - self.frames)
        draw = (random.uniform(*SCALES), random.uniform(-DEGREES, DEGREES), random.random() > 0.5)
        T, J = self.frames, joints.shape[1]
        images, heatmaps = torch.zeros(T, 3, SIZE, SIZE), torch.zeros(T, J, CELLS, CELLS)
        points = np.zeros((T, J, 2))
        for i in range(T):
            image = cv2.imread(str(folder / f'{start + i + 1:06d}.jpg')).astype(np.float32)
            image, points[i] = self.augment(image, joints[start + i].copy(), boxes[start + i], *draw)
            image = cv2.resize(image, (SIZE, SIZE))
            images[i] = torch.from_numpy(image.transpose(2, 0, 1))
            heatmaps[i] = torch.from_numpy(_heatmaps(points[i]).transpose(2, 0, 1))
        return images, heatmaps, points


def _augment_penn(image, points, box, scale, degrees, flip):
    del scale  # is not applied to Penn Action
    image, points = _crop(image, points, box)
    image, points = _rotate(image, points, degrees)
    points *= np.array([SIZE / image.shape[1], SIZE / image.shape[0]])
    return _flip(cv2.resize(image, (SIZE, SIZE)), points, flip)


def _augment_jhmdb(image, points, box, scale, degrees, flip):
    image, points, corners = cv2.resize(image, (0, 0), fx=scale, fy=scale), points * scale, box.reshape(2, 2) * scale
    image, both = _rotate(image, np.concatenate([points, corners]), degrees)
    centre, sides = both[-2:].mean(0), corners[1] - corners[0]
    image, points = _crop(image, both[:-2], np.concatenate([centre - sides / 2, centre + sides / 2]))
    return _flip(image, points, flip)


def _crop(image, points, box):
    """The box, stretched to the size of the input."""
    rows, columns = image.shape[:2]
    x0, y0 = max(int(box[0]), 0), max(int(box[1]), 0)
    x1, y1 = min(int(box[2]), columns), min(int(box[3]), rows)
    scale = np.array([SIZE / (x1 - x0), SIZE / (y1 - y0)])
    image = cv2.resize(image[y0:y1, x0:x1], (SIZE, SIZE)).astype(np.float64)
    return np.trunc(image), np.clip((points - [x0, y0]) * scale, 0, SIZE - 1)


def _rotate(image, points, degrees):
    """About the middle, on a canvas that holds all of the image."""
    rows, columns = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = int(rows * sine + columns * cosine), int(rows * cosine + columns * sine)
    matrix[:, 2] += np.array(size) / 2 - [columns / 2, rows / 2]
    image = cv2.warpAffine(image, matrix, size, borderValue=GREY)
    return image, points @ matrix[:, :2].T + matrix[:, 2]


def _flip(image, points, flip):
    if flip:
        image, points = cv2.flip(image, 1), np.stack([SIZE - 1 - points[:, 0], points[:, 1]], -1)
    return image, points


def _heatmaps(points):
    """float32 [64, 64, J]: a Gaussian over the whole map for each joint, values below 0.0099 set to 0."""
    maps = np.zeros((CELLS, CELLS, len(points)), np.float32)
    for k, (x, y) in enumerate((points * CELLS / SIZE).astype(int)):
        reach = 3 * SIGMA
        if x - reach >= CELLS or y - reach >= CELLS or x + reach + 1 < 0 or y + reach + 1 < 0:
            continue
        rows, columns = np.mgrid[0:CELLS, 0:CELLS]
        values = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2.0 / SIGMA / SIGMA)
        values[values > 1] = 1
        values[values < 0.0099] = 0
        maps[:, :, k] = values
    return maps
