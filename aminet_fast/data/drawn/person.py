"""Who is drawn: every property of a face, sampled together so that they agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]

SKINS = np.array(
    [
        (250, 219, 200),
        (238, 194, 164),
        (224, 172, 134),
        (196, 136, 98),
        (158, 104, 72),
        (118, 76, 52),
        (82, 53, 40),
    ]
)
HAIRS: dict[str, Color] = {
    "black": (28, 24, 26), "dark": (58, 38, 28), "brown": (96, 64, 42), "light": (142, 102, 64),
    "blond": (204, 166, 104), "pale": (226, 204, 158), "red": (152, 70, 34), "grey": (146, 144, 142),
    "white": (214, 212, 208), "dyed": (120, 60, 150),
}  # fmt: skip
IRISES: list[Color] = [
    (70, 44, 26),
    (92, 60, 34),
    (104, 90, 50),
    (84, 112, 78),
    (86, 124, 152),
    (120, 136, 146),
]
STYLES = (
    "short",
    "side",
    "back",
    "fringe",
    "curly",
    "afro",
    "buzz",
    "bald",
    "long",
    "long_wavy",
    "bob",
    "bun",
)


@dataclass
class Person:
    """Lengths are in units of the eye distance, angles in radians."""

    skin: Color
    hair: Color
    iris: Color
    lip: Color
    age: float  # 0 young .. 1 old
    style: str
    beard: str
    jaw: float
    cheek: float
    chin: float
    forehead: float
    eye_open: float
    eye_width: float
    eye_slant: float
    brow_height: float
    brow_thick: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_full: float
    smile: float
    mouth_open: float
    gaze: tuple[float, float]
    glasses: str
    hat: str
    earrings: bool
    makeup: float
    freckles: float
    light: tuple[float, float, float]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Person:
        def normal(mean: float, spread: float) -> float:
            return mean + spread * min(max(rng.standard_normal(), -2.0), 2.0)

        tone = float(rng.beta(1.1, 1.3))
        age = float(rng.beta(1.2, 2.0))
        skin = _tint(_interpolate(SKINS, tone), rng, 3)
        feminine = rng.random() < 0.5
        style = _choose(
            rng,
            STYLES,
            (0.3, 0.5, 0.5, 1, 1, 0.6, 0.2, 0.05, 3, 2.4, 1.6, 1.2) if feminine
            else (2.6, 2.2, 1.4, 1, 1.2, 0.6, 1.2, 0.4 + age, 0.35, 0.3, 0.1, 0.15),
        )  # fmt: skip
        beard = "none" if feminine else _choose(
            rng, ("none", "stubble", "full", "moustache", "goatee"), (5, 2, 1.8, 0.8, 0.8)
        )  # fmt: skip
        glow = rng.uniform(-1, 1)
        up = rng.uniform(-0.75, 0.1)
        return cls(
            skin=skin,
            hair=_tint(_hair(rng, tone, age), rng, 8),
            iris=_tint(IRISES[int(rng.integers(0, 2 if tone > 0.55 else len(IRISES)))], rng, 8),
            lip=_lip(rng, skin, feminine),
            age=age,
            style=style,
            beard=beard,
            jaw=normal(0.80 if feminine else 0.88, 0.06),
            cheek=normal(1.06, 0.045),
            chin=normal(1.66 if feminine else 1.74, 0.07),
            forehead=normal(-1.04, 0.08) - (0.18 * age if not feminine else 0),
            eye_open=float(np.clip(normal(0.2, 0.045), 0.03 if rng.random() < 0.1 else 0.11, 0.3)),
            eye_width=normal(0.5, 0.035),
            eye_slant=normal(0.02, 0.03),
            brow_height=normal(0.34, 0.045),
            brow_thick=normal(0.075 if feminine else 0.105, 0.022),
            nose_width=normal(0.30 if feminine else 0.34, 0.045),
            nose_length=normal(0.70, 0.05),
            mouth_width=normal(0.40, 0.045),
            lip_full=float(np.clip(normal(0.15, 0.04), 0.06, 0.26)),
            smile=float(rng.uniform(-0.25, 1.0)),
            mouth_open=float(max(0.0, rng.uniform(-0.8, 1.0))),
            gaze=(float(rng.normal(0, 0.3)), float(rng.normal(0, 0.15))),
            glasses=_choose(rng, ("none", "round", "square", "rimless", "sun"), (7, 1, 1.4, 0.5, 0.5)),
            hat=_choose(rng, ("none", "beanie", "cap", "band", "brim"), (12, 0.7, 0.7, 0.6 if feminine else 0.1, 0.5)),
            earrings=bool(feminine and rng.random() < 0.5),
            makeup=float(rng.uniform(0, 1)) if feminine else 0.0,
            freckles=float(rng.uniform(0.3, 1)) if rng.random() < 0.2 else 0.0,
            light=(float(glow), float(up), float(rng.uniform(0.5, 1.1))),
        )


def _choose(rng: np.random.Generator, names: tuple[str, ...], weights: tuple[float, ...]) -> str:
    edges = np.cumsum(weights)
    return names[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]


def _interpolate(colors: np.ndarray, t: float) -> Color:
    position = t * (len(colors) - 1)
    low = min(int(position), len(colors) - 2)
    r, g, b = colors[low] + (position - low) * (colors[low + 1] - colors[low])
    return float(r), float(g), float(b)


def _tint(color: Color, rng: np.random.Generator, spread: float) -> Color:
    r, g, b = (min(max(c + float(rng.normal(0, spread)), 4.0), 250.0) for c in color)
    return r, g, b


def _hair(rng: np.random.Generator, tone: float, age: float) -> Color:
    if rng.random() < 1.6 * max(0.0, age - 0.35):
        return HAIRS["grey" if rng.random() < 0.6 else "white"]
    names = tuple(HAIRS)
    weights = (6.0, 3, 0.6, 0.1, 0.1, 0, 0.1, 0.3, 0.1, 0.15) if tone > 0.55 else (2, 3, 3, 2.4, 2, 1, 1, 0.5, 0.2, 0.3)
    name = _choose(rng, names, weights)
    if name == "dyed":
        r, g, b = rng.uniform(30, 220, 3)
        return float(r), float(g), float(b)
    return HAIRS[name]


def _lip(rng: np.random.Generator, skin: Color, feminine: bool) -> Color:
    natural = (skin[0] * 0.86, skin[1] * 0.62, skin[2] * 0.62)
    paint = (rng.uniform(130, 215), rng.uniform(20, 90), rng.uniform(40, 110))
    t = float(rng.uniform(0.2, 0.95)) if feminine and rng.random() < 0.6 else 0.08
    r, g, b = (n + t * (p - n) for n, p in zip(natural, paint, strict=True))
    return float(r), float(g), float(b)
