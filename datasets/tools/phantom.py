"""A synthetic frontal chest X-ray and the mask of its pneumothorax.

The image is a sum of densities, like a projection: tissue, minus the air in the lungs, plus heart,
spine, ribs and vessels; the exposure comes last. Sides are the viewer's: -1 is left. Lengths are
fractions of the image side, x from -0.5 to 0.5 and y from 0 (top) to 1.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Side of the grid that is drawn on and then resized: only the grain is finer than its pixels.
GRID = 384
# A narrower gap between lung and wall shows no air.
MIN_GAP = 0.008


@dataclass(frozen=True)
class Lung:
    """One lung, as fields over the grid ([GRID,GRID] float32).

    Attributes:
        outward: distance from the midline, positive on the lung's own side.
        depth: roughly the distance to the chest wall, positive inside.
        height: height above the diaphragm.
        collapse: roughly the distance inside the pleural line, positive in lung tissue; equals
            `depth` without a pneumothorax.
    """

    outward: np.ndarray
    depth: np.ndarray
    height: np.ndarray
    collapse: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """[GRID,GRID] float32, positive within chest wall and diaphragm."""
        return np.minimum(self.depth, self.height)

    @property
    def pneumothorax(self) -> np.ndarray:
        """[GRID,GRID] float32, positive in the free air between chest wall and pleural line."""
        beside_the_spine = self.outward - 0.075
        gap = self.depth - self.collapse - MIN_GAP
        return np.minimum.reduce([self.inside, -self.collapse, gap, beside_the_spine])


def draw_chest(
    rng: np.random.Generator, size: int, positive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one chest X-ray.

    Args:
        rng: random source of everything that varies between images.
        size: side of the image in pixels.
        positive: draw a pneumothorax in one lung.

    Returns:
        The image, [size,size] uint8, and its mask, [size,size] uint8 of 0 and 1.
    """
    x, y = _coordinates(rng)
    side = rng.choice([-1, 1]) if positive else 0
    lungs = [_lung(rng, s * x, y, collapsed=s == side) for s in (-1, 1)]
    free_air = np.max([lung.pneumothorax for lung in lungs], axis=0)
    density = _tissue(rng, x, y, lungs)
    density += _bones(rng, x, y, lungs)
    image = _expose(rng, _collimate(rng, density), size)
    mask = _scaled(free_air, size) > 0
    return image, mask.astype(np.uint8)


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """Return a smooth step from 0 to 1, about `width` wide."""
    return 0.5 + 0.5 * np.tanh(distance / width)


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2))


def _scaled(field: np.ndarray, size: int) -> np.ndarray:
    shrinking = size < field.shape[0]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    return cv2.resize(field, (size, size), interpolation=method)


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Draw smooth noise of unit strength, with `cells` knots per side."""
    return _scaled(rng.standard_normal((cells, cells), dtype=np.float32), GRID)


def _coordinates(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the patient coordinates of each pixel: rotated, scaled, shifted and slightly warped."""
    line = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID - 0.5
    x, y = np.meshgrid(line, line)
    angle = rng.normal(0, 0.03)
    zoom_x, zoom_y = rng.uniform(0.92, 1.12) * rng.uniform(0.96, 1.04, 2)
    shift_x, shift_y = rng.normal(0, [0.015, 0.02])
    turned_x = np.cos(angle) * x - np.sin(angle) * y
    turned_y = np.sin(angle) * x + np.cos(angle) * y
    bent_x = zoom_x * turned_x + shift_x + 0.006 * _noise(rng, 5)
    bent_y = zoom_y * turned_y + shift_y + 0.5 + 0.006 * _noise(rng, 5)
    return bent_x.astype(np.float32), bent_y.astype(np.float32)


def _lung(rng: np.random.Generator, outward: np.ndarray, y: np.ndarray, collapsed: bool) -> Lung:
    centre, half_width = rng.uniform(0.185, 0.205), rng.uniform(0.15, 0.175)
    top, flare, power = rng.uniform(0.08, 0.14), rng.uniform(0.1, 0.3), rng.uniform(2.0, 2.4)

    def wall(outward: np.ndarray, y: np.ndarray) -> np.ndarray:
        across = (outward - centre) / (half_width * (1 + flare * (y - 0.5)))
        above = np.minimum(0, (y - 0.48) / (0.48 - top))
        return half_width * (1 - (np.abs(across) ** power + np.abs(above) ** power) ** (1 / power))

    depth = wall(outward, y)
    dome = np.maximum(-0.5, (outward - centre + 0.03) / 0.17) ** 2
    floor = rng.uniform(0.70, 0.80) + rng.uniform(0.05, 0.1) * dome
    collapse = depth
    if collapsed:
        inward, down = _retreat(rng, y)
        wavy = 1 + 0.1 * _noise(rng, 9)
        collapse = wall(outward + wavy * inward, y - wavy * down)
    return Lung(outward, depth, floor - y, collapse)


def _retreat(rng: np.random.Generator, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw how far the lung has retracted from the wall, inward and down, by height."""
    extent = rng.uniform(0.25, 1.0)
    middle, reach = rng.uniform(0.1, 0.65), rng.uniform(0.12, 0.4)
    inward = extent * rng.uniform(0.06, 0.13) * _bump(y - middle, reach)
    down = extent * rng.uniform(0.0, 0.15) * np.clip(1.3 - 1.6 * y, 0, 1)
    return inward, down


def _tissue(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, lungs: list[Lung]
) -> np.ndarray:
    body = _body(rng, x, y)
    toward_right = _soft(x, 0.03)
    height = lungs[0].height * (1 - toward_right) + lungs[1].height * toward_right
    belly = _soft(-height, 0.02)
    organs = np.maximum(0.36 * belly, _mediastinum(rng, x, y))
    density = body * (0.6 + organs + 0.03 * _noise(rng, 4))
    for lung in lungs:
        density -= body * _air(rng, lung)
    return density * (1 - _gas(rng, x, y, lungs))


def _body(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw the thickness of the trunk, 0 outside and about 1 inside."""
    neck, shoulder, waist = rng.uniform([0.1, 0.54, 0.41], [0.14, 0.68, 0.52])
    spread = np.clip((y - rng.uniform(-0.07, 0.01)) / 0.16, 0, 1)
    taper = np.clip((y - 0.25) / 0.3, 0, 1)
    taper = taper * taper * (3 - 2 * taper)
    half_width = neck + (shoulder - neck) * spread - (shoulder - waist) * taper
    inside = np.clip(1 - (x / half_width) ** 2, 0, 1)
    return inside**0.3


def _air(rng: np.random.Generator, lung: Lung) -> np.ndarray:
    """Draw the density that the air of a lung removes, reduced by its vessels and texture."""
    aerated = _soft(lung.depth, 0.012) * _soft(lung.height, 0.006) * _soft(lung.outward, 0.03)
    bulge = 0.75 + 0.25 * _soft(lung.depth - 0.04, 0.05)
    free = _soft(lung.pneumothorax, 0.003)
    fine = 0.022 * _noise(rng, 90) + 0.02 * _noise(rng, 24)
    tissue = 0.5 * _vessels(rng, lung) + fine + 0.07 * _bump(lung.collapse - 0.02, 0.1)
    line = 0.07 * _bump(lung.collapse, 0.0035) * (lung.depth - lung.collapse > MIN_GAP)
    strength = rng.uniform(0.34, 0.42)
    return aerated * (strength * bulge + 0.07 * free - tissue * (1 - free) - line)


def _vessels(rng: np.random.Generator, lung: Lung) -> np.ndarray:
    """Draw vessels that branch out from the hilum and get thinner, 0 to about 0.3."""
    canvas = np.zeros((GRID, GRID), np.float32)
    hilum_row, hilum_column = np.unravel_index(
        np.argmin((lung.outward - 0.07) ** 2 + (lung.height - 0.3) ** 2), canvas.shape
    )
    for angle in rng.uniform(0, 2 * np.pi, 26):
        steps = np.arange(9)
        heading = angle + np.cumsum(rng.normal(0, 0.25, steps.size))
        stride = GRID * rng.uniform(0.02, 0.045)
        columns = hilum_column + np.cumsum(stride * np.cos(heading))
        rows = hilum_row + np.cumsum(stride * np.sin(heading) * 1.3)
        points = np.stack([columns, rows], axis=1).round().astype(np.int32)
        for step in steps[1:]:
            cv2.line(
                canvas, points[step - 1], points[step], 0.26 - 0.025 * step, 1 + (8 - step) // 3
            )
    hilum = 0.2 * _bump(lung.outward - 0.08, 0.04) * _bump(lung.height - 0.3, 0.09)
    return cv2.GaussianBlur(canvas, (0, 0), 1.3) + hilum


def _mediastinum(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    column = _soft(rng.uniform(0.05, 0.07) + 0.03 * (y - 0.3) - np.abs(x), 0.018)
    tilt, length = rng.uniform(0.3, 0.6), rng.uniform(0.13, 0.18)
    along = np.cos(tilt) * (x - 0.055) + np.sin(tilt) * (y - 0.64)
    across = -np.sin(tilt) * (x - 0.055) + np.cos(tilt) * (y - 0.64)
    heart = _soft(1 - np.hypot(along / length, across / (0.75 * length)), 0.09)
    aorta = _soft(0.035 - np.hypot(x - 0.062, 0.7 * (y - 0.36)), 0.01)
    trachea = _bump(x, 0.017) * _soft(0.32 - y, 0.03)
    column *= 0.8 + 0.2 * _soft(y - 0.25, 0.1) - 0.7 * _soft(y - 0.76, 0.06)
    shadow = np.maximum.reduce([0.34 * column, 0.36 * heart, 0.3 * aorta])
    return shadow - 0.09 * trachea


def _gas(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, lungs: list[Lung]) -> np.ndarray:
    """Draw dark distractors: stomach bubble, bowel gas, and a bulla inside a lung."""
    stomach = _blob(rng, x - rng.uniform(0.12, 0.24), y - rng.uniform(0.86, 0.92), 0.07, 0.03)
    gas = rng.choice([0, 1], p=[0.25, 0.75]) * stomach
    for _ in range(rng.integers(0, 5)):
        bowel = _blob(rng, x - rng.uniform(-0.25, 0.3), y - rng.uniform(0.92, 1), 0.03, 0.025)
        gas = np.maximum(gas, 0.6 * bowel)
    gas *= _soft(-np.max([lung.inside for lung in lungs], axis=0) - 0.012, 0.004)
    if rng.random() < 0.4:
        home = lungs[rng.integers(2)]
        bulla = _blob(rng, home.outward - 0.2, home.height - rng.uniform(0.15, 0.35), 0.055, 0.055)
        gas = np.maximum(gas, 0.9 * bulla * _soft(home.collapse - 0.04, 0.005))
    return 0.5 * gas


def _blob(
    rng: np.random.Generator, right: np.ndarray, down: np.ndarray, width: float, height: float
) -> np.ndarray:
    width, height = rng.uniform(0.6, 1.3, 2) * (width, height)
    return _soft(1 - np.hypot(right / width, down / height) + 0.1 * _noise(rng, 10), 0.12)


def _bones(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, lungs: list[Lung]) -> np.ndarray:
    spine = _soft(0.036 - np.abs(x), 0.006) * (0.8 + 0.2 * np.cos(2 * np.pi * y / 0.057))
    strength, spacing = rng.uniform(0.8, 1.3), rng.uniform(0.064, 0.076)
    bones = 0.07 * spine
    for lung in lungs:
        bones += strength * _ribs(rng, lung, y, spacing)
        bones += 0.09 * _clavicle(rng, lung.outward, y)
        shoulder_blade = _soft(lung.outward - 0.31 - 0.12 * (y - 0.2), 0.008)
        bones += 0.035 * shoulder_blade * _soft(0.46 - y, 0.04) * _soft(y - 0.15, 0.04)
    return bones


def _ribs(rng: np.random.Generator, lung: Lung, y: np.ndarray, spacing: float) -> np.ndarray:
    out, start = lung.outward, rng.uniform(0.1, 0.14)
    back = (y - start + 0.33 * out - rng.uniform(1.2, 1.6) * out**2) / spacing
    front = (y - start - rng.uniform(0.4, 0.55) * (0.33 - out)) / (1.25 * spacing)
    cage = _soft(lung.depth + 0.022, 0.01) * _soft(0.86 - y, 0.04)
    posterior = _bars(back, 0.16) * _soft(out - 0.035, 0.01) * (0.6 + 0.4 * _soft(out - 0.2, 0.1))
    anterior = _bars(front, 0.2) * _soft(out - 0.14, 0.04)
    wall = _bump(lung.depth + 0.012, 0.012) * _soft(lung.height, 0.05)
    return cage * (0.1 * posterior + 0.045 * anterior) + 0.04 * wall


def _bars(phase: np.ndarray, half: float) -> np.ndarray:
    """Return a bar at every integer `phase`, denser at both edges, like a hollow bone."""
    distance = np.abs(phase - np.round(phase))
    return 0.6 * _soft(half - distance, 0.04) + 0.4 * _bump(distance - half + 0.04, 0.05)


def _clavicle(rng: np.random.Generator, outward: np.ndarray, y: np.ndarray) -> np.ndarray:
    course = rng.uniform(0.15, 0.19) - rng.uniform(0.1, 0.24) * outward
    course = course + 0.012 * np.sin(18 * outward)
    ends = _soft(outward - 0.03, 0.006) * _soft(0.4 - outward, 0.01)
    distance = np.abs(y - course)
    return ends * (0.6 * _soft(0.013 - distance, 0.003) + 0.5 * _bump(distance - 0.01, 0.004))


def _collimate(rng: np.random.Generator, density: np.ndarray) -> np.ndarray:
    """Leave the border of the image unexposed, in a third of the images."""
    if rng.random() < 0.33:
        left, right, top, bottom = (GRID * rng.uniform(0.005, 0.03, 4)).astype(int)
        frame = np.zeros_like(density)
        frame[top : GRID - bottom, left : GRID - right] = 1
        density = density * frame
    return density


def _expose(rng: np.random.Generator, density: np.ndarray, size: int) -> np.ndarray:
    """Convert densities to [size,size] uint8: contrast, brightness, gamma, marker and grain."""
    black, span = rng.uniform(0, 0.12), rng.uniform(0.75, 1.05)
    light = np.clip(density / rng.uniform(1.0, 1.3), 0, 1) ** rng.uniform(0.75, 1.35)
    picture = 255 * (black + span * (1 - black) * _scaled(light.astype(np.float32), size))
    corner = rng.uniform([0.9, 0.06], [0.94, 0.12])
    letter_l = size * (corner + np.array([[0, -0.03], [0, 0], [0.018, 0]]))
    cv2.polylines(picture, [letter_l.astype(np.int32)], False, 240.0, max(1, size // 250))
    picture += rng.uniform(1, 3.5) * rng.standard_normal((size, size), dtype=np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)
