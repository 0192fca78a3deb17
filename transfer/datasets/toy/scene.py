"""Pictures of textured shapes on cluttered grounds, with exact visible masks.

A class is a shape together with a texture, in the easy look with a colour. Neither alone decides: both recur in other
classes or in distractors. Everything else (size, angle, place, lighting, ground, and colour or texture) is drawn
independently of the class, so it tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rng = np.random.Generator


class Drawn(NamedTuple):
    """How a shape is drawn; without a colour in two of any hue."""

    shape: str
    texture: str
    colour: str = ""


@dataclass(frozen=True)
class Look:
    """What the classes of a set look like, and the distractors: each is wrong in one way.

    `radii` are the smallest and the largest radius of an object in a scene, as shares of the scene's shorter side.
    """

    classes: Mapping[str, Drawn]
    distractors: tuple[Drawn, ...]
    radii: tuple[float, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in the order of their labels."""
        return tuple(self.classes)

    def kind(self, label: int) -> Drawn:
        """How class `label` is drawn."""
        return self.classes[self.names[label]]


# Shape and texture together make the class, colour says nothing. Distractors have no texture or another class's, or a
# class's texture on another shape.
TEXTURED = Look(
    {
        "checked_triangle": Drawn("triangle", "checked"),
        "dotted_disc": Drawn("disc", "dotted"),
        "dotted_square": Drawn("square", "dotted"),
        "striped_disc": Drawn("disc", "striped"),
        "striped_square": Drawn("square", "striped"),
    },
    (
        *(Drawn(shape, "plain") for shape in ("disc", "square", "triangle")),
        *(Drawn("disc", "checked"), Drawn("triangle", "striped")),
        *(Drawn("cross", "striped"), Drawn("cross", "dotted"), Drawn("star", "checked")),
    ),
    (0.09, 0.2),
)
# Shape and colour make the class, texture says nothing: a detector learns it in a minute. Most distractors are grey,
# the others have a class's colour on a shape that none has.
COLOURED = Look(
    {
        "disc_red": Drawn("disc", "any", "red"),
        "square_blue": Drawn("square", "any", "blue"),
        "triangle_green": Drawn("triangle", "any", "green"),
    },
    (
        *(Drawn(shape, "any", "grey") for shape in ("disc", "square", "triangle", "cross", "star")),
        *(Drawn("cross", "any", colour) for colour in ("blue", "green", "red")),
    ),
    (0.12, 0.22),
)
CLASSES = TEXTURED.names
COLOURS = {"blue": (0.1, 0.25, 0.9), "green": (0.1, 0.75, 0.2), "red": (0.9, 0.12, 0.15), "grey": (0.5, 0.5, 0.5)}
TEXTURES = ("plain", "striped", "dotted", "checked")
SUPERSAMPLING = 4
VISIBLE_AT_LEAST = 0.45  # of every object's pixels; what would hide more is placed elsewhere
DIFFICULT_BELOW = 0.7  # visible share under which an object carries VOC's flag
TRIES = 40


@dataclass(frozen=True, eq=False)
class ToyObject:
    """One object of a scene: its class (index into the look's) and the pixels of it that can be seen, bool [h, w]."""

    label: int
    visible: Mask
    difficult: bool

    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) around the visible pixels, 0-based with exclusive ends."""
        rows, columns = np.flatnonzero(self.visible.any(axis=1)), np.flatnonzero(self.visible.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Scene:
    """An RGB picture uint8 [h, w, 3] and its objects, the last drawn on top; `crowd` is a swarm annotated as one."""

    pixels: NDArray[np.uint8]
    objects: tuple[ToyObject, ...]
    crowd: ToyObject | None = None


def draw_scene(rng: Rng, width: int, height: int, objects: int, crowd: bool = False, look: Look = TEXTURED) -> Scene:
    """A ground with clutter and distractors and up to `objects` objects (fewer where there was no room)."""
    canvas = _ground(rng, width, height)
    side = min(width, height)
    for _ in range(rng.integers(1, 4)):
        _paint(canvas, rng, look.distractors[rng.integers(len(look.distractors))], rng.uniform(0.1, 0.22) * side)
    layers = [_swarm(canvas, rng, side, look)] if crowd else []
    for _ in range(objects):
        label = int(rng.integers(len(look.classes)))
        placed = _place(rng, look.kind(label), look.radii, canvas.shape[:2], side, layers)
        if placed is None:
            continue
        stamp, mask = placed
        stamp.onto(canvas)
        for layer in layers:
            layer.visible &= ~mask
        layers.append(_Layer(label, mask, mask.copy()))
    bars = _bars(canvas, rng, int(rng.integers(0, 3)))
    for layer in layers:
        layer.visible &= ~bars
    items = [layer.finished() for layer in layers]
    swarm = items.pop(0) if crowd else None
    # A bar may run along the sliver that another object left: what cannot be seen is not annotated.
    return Scene(_developed(canvas, rng), tuple(item for item in items if item.visible.any()), swarm)


def draw_single(rng: Rng, side: int, label: int, look: Look = TEXTURED) -> NDArray[np.uint8]:
    """A square picture uint8 [side, side, 3] with one large object of class `label` of `look` near the middle."""
    canvas = _ground(rng, side, side)
    for _ in range(rng.integers(1, 4)):
        _paint(canvas, rng, look.distractors[rng.integers(len(look.distractors))], rng.uniform(0.1, 0.2) * side)
    centre = side / 2 + rng.uniform(-0.12, 0.12, 2) * side
    _Stamp.of(rng, look.kind(label), rng.uniform(0.24, 0.36) * side, centre, canvas.shape[:2]).onto(canvas)
    _bars(canvas, rng, int(rng.integers(0, 2)))
    return _developed(canvas, rng)


# -- objects -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Layer:
    """An object while the scene is being drawn: all its pixels, and those not covered so far."""

    label: int
    whole: Mask
    visible: Mask

    def finished(self) -> ToyObject:
        return ToyObject(self.label, self.visible, bool(self.visible.sum() < DIFFICULT_BELOW * self.whole.sum()))


@dataclass(frozen=True, eq=False)
class _Stamp:
    """A shape ready to be drawn: coverage in [0, 1] and colour on the window of the canvas that it touches."""

    rows: slice
    columns: slice
    coverage: Floats  # [h, w]
    colour: Floats  # [h, w, 3]

    @classmethod
    def of(cls, rng: Rng, kind: Drawn, radius: float, centre: Floats, shape: tuple[int, int]) -> _Stamp:
        x0, y0 = (max(int(c - radius) - 1, 0) for c in centre)
        x1, y1 = (min(int(c + radius) + 2, limit) for c, limit in zip(centre, shape[::-1], strict=True))
        angle = rng.uniform(0, 2 * np.pi)
        outline = centre + radius * _outline(kind.shape) @ _rotation(angle) - (x0, y0)
        size = (x1 - x0) * SUPERSAMPLING, (y1 - y0) * SUPERSAMPLING
        picture = Image.new("L", size)
        ImageDraw.Draw(picture).polygon([tuple(point) for point in (outline * SUPERSAMPLING).tolist()], fill=255)
        coverage = np.asarray(picture.reduce(SUPERSAMPLING), dtype=np.float64) / 255
        pattern = _pattern(rng, kind.texture, x1 - x0, y1 - y0)[..., None]
        dark, light = _two_colours(rng, kind.colour)
        return cls(slice(y0, y1), slice(x0, x1), coverage, dark * (1 - pattern) + light * pattern)

    def onto(self, canvas: Floats) -> None:
        window = canvas[self.rows, self.columns]
        window += self.coverage[..., None] * (self.colour - window)

    def mask(self, shape: tuple[int, int]) -> Mask:
        mask = np.zeros(shape, np.bool_)
        mask[self.rows, self.columns] = self.coverage >= 0.5
        return mask


def _place(
    rng: Rng, kind: Drawn, radii: tuple[float, float], shape: tuple[int, int], side: int, layers: list[_Layer]
) -> tuple[_Stamp, Mask] | None:
    """A stamp inside the canvas that leaves every object under it visible enough; None if no place was found."""
    for _ in range(TRIES):
        radius = rng.uniform(*radii) * side
        centre = np.array([rng.uniform(radius + 1, limit - radius - 1) for limit in shape[::-1]])
        stamp = _Stamp.of(rng, kind, radius, centre, shape)
        mask = stamp.mask(shape)
        if all((layer.visible & ~mask).sum() >= VISIBLE_AT_LEAST * layer.whole.sum() for layer in layers):
            return stamp, mask
    return None


def _paint(canvas: Floats, rng: Rng, kind: Drawn, radius: float) -> None:
    height, width = canvas.shape[:2]
    centre = np.array([rng.uniform(0, width), rng.uniform(0, height)])
    _Stamp.of(rng, kind, radius, centre, (height, width)).onto(canvas)


def _swarm(canvas: Floats, rng: Rng, side: int, look: Look) -> _Layer:
    """A dozen small shapes of one class in a heap: what COCO annotates as one crowd."""
    label, height, width = int(rng.integers(len(look.classes))), *canvas.shape[:2]
    heart = np.array([rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height])
    mask = np.zeros((height, width), np.bool_)
    for _ in range(12):
        centre = np.clip(heart + rng.normal(0, 0.09, 2) * side, 0.1 * side, np.array([width, height]) - 0.1 * side)
        stamp = _Stamp.of(rng, look.kind(label), rng.uniform(0.05, 0.08) * side, centre, (height, width))
        stamp.onto(canvas)
        mask |= stamp.mask((height, width))
    return _Layer(label, mask, mask.copy())


def _outline(shape: str) -> Floats:
    """Corners [n, 2] of a shape in the unit circle."""
    if shape == "cross":
        arm = 0.33
        corner = np.array([[1, arm], [arm, arm], [arm, 1], [-arm, 1]])
        turned = [corner @ _rotation(np.pi / 2 * quarter) for quarter in range(4)]
        return np.asarray(np.concatenate([turn[:3] for turn in turned]) * 0.95)
    corners = {"disc": 48, "square": 4, "triangle": 3, "star": 10}[shape]
    angles = 2 * np.pi * np.arange(corners) / corners
    radii = np.where(np.arange(corners) % 2, 0.45, 1.0) if shape == "star" else np.ones(corners)
    # The disc is made smaller, so that size tells the shapes apart as little as possible.
    size = 0.86 if shape == "disc" else 1.0
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1) * np.float64(size)


def _rotation(angle: float) -> Floats:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _pattern(rng: Rng, texture: str, width: int, height: int) -> Floats:
    """A pattern [h, w] in [0, 1] at a random angle, phase and period."""
    if texture == "any":
        texture = TEXTURES[rng.integers(len(TEXTURES))]
    period, phase = rng.uniform(5.5, 9.0), rng.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    turned = np.stack([x, y], axis=-1) @ _rotation(rng.uniform(0, np.pi))
    u, v = (2 * np.pi * turned[..., axis] / period + phase[axis] for axis in (0, 1))
    if texture == "plain":
        return np.full((height, width), rng.uniform(0, 1))
    wave = {
        "striped": lambda: np.sin(u),
        "dotted": lambda: np.cos(u) + np.cos(v) - 0.75,
        "checked": lambda: 2 * np.sin(u * 0.75) * np.sin(v * 0.75),
    }[texture]()
    return np.asarray(np.clip(0.5 + 2.0 * wave, 0, 1))


# -- everything else ---------------------------------------------------------------------------------------------


def _two_colours(rng: Rng, colour: str) -> tuple[Floats, Floats]:
    """A dark and a light shade of any hue or of `colour`, in random order, far enough apart for a texture to show."""
    if colour:
        light = np.clip(COLOURS[colour] + rng.uniform(-0.1, 0.1, 3), 0, 1)
        dark = light * rng.uniform(0.5, 0.7)
    else:
        dark, light = rng.uniform(0.0, 0.45, 3), rng.uniform(0.55, 1.0, 3)
    return (dark, light) if rng.random() < 0.5 else (light, dark)


def _ground(rng: Rng, width: int, height: int) -> Floats:
    """Clouds of several scales between two colours, with strokes and specks on them; float [h, w, 3] in [0, 1]."""
    clouds = np.zeros((height, width))
    for cells, weight in ((3, 1.0), (7, 0.6), (19, 0.35), (48, 0.2)):
        coarse = Image.fromarray(rng.uniform(0, 1, (cells, cells)).astype(np.float32))
        clouds += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    clouds = (clouds - clouds.min()) / (clouds.max() - clouds.min())
    first, second = rng.uniform(0.1, 0.9, 3), rng.uniform(0.1, 0.9, 3)
    picture = Image.fromarray(np.round(255 * (first + clouds[..., None] * (second - first))).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(4, 12)):
        ends = (rng.uniform(-0.1, 1.1, 4) * [width, height, width, height]).tolist()
        pen.line(ends, fill=_ink(rng), width=int(rng.integers(1, 4)))
    for _ in range(rng.integers(6, 20)):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.8, 4)
        pen.ellipse([x - r, y - r, x + r, y + r], fill=_ink(rng))
    return np.asarray(picture, dtype=np.float64) / 255


def _ink(rng: Rng) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _bars(canvas: Floats, rng: Rng, count: int) -> Mask:
    """Thin bars in front of everything; returns their pixels."""
    height, width = canvas.shape[:2]
    picture = Image.new("L", (width, height))
    for _ in range(count):
        ends = (rng.uniform(-0.1, 1.1, 4) * [width, height, width, height]).tolist()
        ImageDraw.Draw(picture).line(ends, fill=255, width=int(rng.integers(2, 5)))
    mask = np.asarray(picture) > 0
    canvas[mask] = rng.uniform(0.05, 0.95, 3)
    return mask


def _developed(canvas: Floats, rng: Rng) -> NDArray[np.uint8]:
    """Uneven light and sensor noise."""
    height, width = canvas.shape[:2]
    slope = rng.uniform(-0.25, 0.25, 2)
    light = 1 + slope[0] * np.linspace(-1, 1, width)[None, :] + slope[1] * np.linspace(-1, 1, height)[:, None]
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    noisy = canvas * (light[..., None] * rng.uniform(0.8, 1.1)) + 0.015 * noise
    return np.asarray(255 * np.clip(noisy, 0, 1) + 0.5, dtype=np.uint8)
