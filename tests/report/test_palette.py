"""The colours can be told apart by colour-blind readers, and from the ground they are on."""

import itertools

import numpy as np
import pytest

from raysel.report.palette import DARK, LIGHT

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
LEAST = {"normal": 23, "protanopia": 13, "deuteranopia": 13, "tritanopia": 11}
CATEGORIES = [f"c{number}" for number in range(8)]
# What one figure tells apart by colour.
TOGETHER = [["before", "accent", "c1", "c3"], ["all", "pool", "accent"], ["accent", "c1", "muted"], ["before", "ink"]]
# IEC 61966-2-1, from linear RGB to XYZ, and its white.
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour):
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def cielab(rgb):
    scaled = np.clip(rgb, 0, 1) @ XYZ.T / WHITE
    f = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(first, second):
    """Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula", eq. 2 to 22."""
    (L1, a1, b1), (L2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    G = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25**7)))
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2([b1, b2], [a1, a2])) % 360
    turn = (h2 - h1 + 180) % 360 - 180 if C1 * C2 else 0.0
    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, (h1 + turn / 2) % 360 if C1 * C2 else h1 + h2
    of = [np.cos(np.radians(k * h - shift)) for k, shift in ((1, 30), (2, 0), (3, -6), (4, 63))]
    T = 1 - 0.17 * of[0] + 0.24 * of[1] + 0.32 * of[2] - 0.20 * of[3]
    dL = (L2 - L1) / (1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2))
    dC = (C2 - C1) / (1 + 0.045 * C)
    dH = 2 * np.sqrt(C1 * C2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * C * T)
    rotation = np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    return np.sqrt(dL**2 + dC**2 + dH**2 - 2 * np.sqrt(C**7 / (C**7 + 25**7)) * rotation * dC * dH)


def contrast(colour, ground):
    """WCAG 2.2, "contrast ratio"."""
    darker, lighter = sorted(float(linear(one) @ XYZ[1]) for one in (colour, ground))
    return (lighter + 0.05) / (darker + 0.05)


def apart(theme, names, vision):
    seen = [cielab(linear(theme[name]) @ VISION[vision].T) for name in names]
    return min(ciede2000(a, b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_measure_is_the_published_one(first, second, distance):
    assert ciede2000(first, second) == pytest.approx(distance, abs=5e-5)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_far_apart(theme, vision):
    assert apart(theme, CATEGORIES, vision) > LEAST[vision]
    # 8 is plain beside each other; where one figure has them they differ in form too.
    assert all(apart(theme, names, vision) > 8 for names in TOGETHER)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_and_texts_stand_out_from_their_ground(theme):
    for name in ("ink", "muted", "accent", *CATEGORIES):
        assert contrast(theme[name], theme["paper"]) >= 4.5, name
    for name in ("before", "pool"):
        assert contrast(theme[name], theme["paper"]) >= 3, name
    # The numbers in the cells of a heat map.
    assert contrast(theme["ink"], theme["pool"]) >= 4.5


def test_both_grounds_have_the_same_colours_and_no_two_are_one():
    assert LIGHT.keys() == DARK.keys()
    # An SVG's colours are replaced by what they are called.
    assert len(set(LIGHT.values())) == len(LIGHT)
