"""Which channels of known sensors make which composite, where a file holds their bands in the usual order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maskmill.errors import nearest

Channels = tuple[int | str, ...]

SENSORS: dict[str, dict[str, tuple[int, int, int]]] = {
    # B01 B02 B03 B04 B05 B06 B07 B08 ...: the first eight are the same in stacks of levels 1C and 2A
    "sentinel2": {"true_colour": (3, 2, 1), "false_colour": (7, 3, 2)},
    # the four bands of 10 m: B02 B03 B04 B08
    "sentinel2_10m": {"true_colour": (2, 1, 0), "false_colour": (3, 2, 1)},
    # Landsat 8 and 9: B1 B2 B3 B4 B5 B6 B7
    "landsat8": {"true_colour": (3, 2, 1), "false_colour": (4, 3, 2), "shortwave": (6, 5, 3)},
    # red, green, blue, near infrared: NAIP and most aerial cameras
    "rgbn": {"true_colour": (0, 1, 2), "false_colour": (3, 0, 1)},
    # blue, green, red, near infrared: PlanetScope, Pleiades, SPOT in the order of wavelengths
    "bgrn": {"true_colour": (2, 1, 0), "false_colour": (3, 2, 1)},
}


def numbers(channels: Sequence[int | str] | Mapping[str, str]) -> Channels:
    """The channels of a list, or of {sensor: composite}; one or three.

    Raises:
        ValueError: another number of them; an unknown sensor or composite.
    """
    if not isinstance(channels, Mapping):
        if len(channels) not in (1, 3):
            raise ValueError(f"{len(channels)} channels; give three for red, green and blue, or one for grey")
        return tuple(channels)
    if len(channels) != 1:
        raise ValueError("give one {sensor: composite}")
    ((sensor, composite),) = channels.items()
    if sensor not in SENSORS:
        raise ValueError(f"unknown sensor {sensor!r}{nearest(sensor, SENSORS)}; known: {', '.join(SENSORS)}")
    known = SENSORS[sensor]
    if composite not in known:
        raise ValueError(f"{sensor} has no {composite!r}{nearest(composite, known)}; known: {', '.join(known)}")
    return known[composite]
