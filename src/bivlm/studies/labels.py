"""Labels next to the marks of a picture, placed so that they cover as little as possible of other labels,
lines and marks, and the edge.

The search is greedy: for one mark after the other the places around it are tried. The place with the least
covered area wins; the distance has a small weight. A thin line joins a distant label to its mark. Boxes are
rows of (left, bottom, right, top) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

FONT_SIZE = 7.5
NEAR, FAR = 7.0, (20.0, 34.0, 50.0, 70.0)  # distances from the mark, in points; beyond NEAR a line joins them
DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
MARK = 4.0  # half the size of a mark, in points
MARGIN = 1.5  # around a label, in points
STEP = 8.0  # pixels between the small boxes that a line counts as
OUTSIDE, DISTANCE = (
    20.0,
    3.0,
)  # what a pixel outside the frame costs, and a pixel of distance, in covered pixels


def place_labels(canvas: FigureCanvasAgg, axes: Axes, marks: Sequence[tuple[str, float, float, str]]) -> None:
    """Write the text of each mark (text, x, y in data units, colour) into `axes`, which must have its final
    limits and size.
    """
    renderer, scale = canvas.get_renderer(), canvas.figure.dpi / 72
    frame = np.asarray(axes.get_window_extent(renderer).extents)[None]
    drawn = [line.get_transform().transform(np.column_stack(line.get_data())) for line in axes.lines]
    taken = np.concatenate([np.empty((0, 4)), *(boxes_along(points, MARK * scale) for points in drawn)])
    places = list(product((NEAR, *FAR), DIRECTIONS))
    far = np.array([distance for distance, _ in places]) * scale
    for text, x, y, colour in marks:
        label = axes.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=FONT_SIZE,
            color=colour,
            zorder=6,
        )
        extent, centre = label.get_window_extent(renderer), axes.transData.transform((x, y))
        boxes = np.array(
            [
                box_at(centre, distance * scale, direction, extent.width, extent.height)
                for distance, direction in places
            ]
        )
        area = extent.width * extent.height
        costs = covered(boxes, taken) + OUTSIDE * (area - covered(boxes, frame)) + DISTANCE * far
        best = int(costs.argmin())
        left, bottom, right, top = boxes[best]
        label.set_position(((left - centre[0]) / scale, (bottom - centre[1]) / scale))
        taken = np.concatenate([taken, boxes[best : best + 1] + np.array([-1, -1, 1, 1]) * MARGIN * scale])
        if places[best][0] > NEAR:
            nearest = axes.transData.inverted().transform(
                (min(max(centre[0], left), right), min(max(centre[1], bottom), top))
            )
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.7}
            axes.annotate("", (nearest[0], nearest[1]), xytext=(x, y), arrowprops=line, zorder=5)


def boxes_along(points: np.ndarray, half: float) -> np.ndarray:
    """Boxes along a line with its marks: the area that they cover."""
    pieces = [
        np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / STEP)) for start, end in pairwise(points)
    ]
    along = np.concatenate(pieces) if pieces else points
    return np.concatenate([along - half, along + half], axis=1)


def box_at(
    centre: np.ndarray, distance: float, direction: tuple[int, int], width: float, height: float
) -> tuple[float, float, float, float]:
    """The label's box when it stands at `distance` from its mark, to one of the eight sides."""
    x = centre[0] + direction[0] * distance - width * (1 - direction[0]) / 2
    y = centre[1] + direction[1] * distance - height * (1 - direction[1]) / 2
    return x, y, x + width, y + height


def covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of the boxes (n, 4), the area that it shares with the others (m, 4), added up: (n,)."""
    width = np.minimum(boxes[:, None, 2], others[None, :, 2]) - np.maximum(
        boxes[:, None, 0], others[None, :, 0]
    )
    height = np.minimum(boxes[:, None, 3], others[None, :, 3]) - np.maximum(
        boxes[:, None, 1], others[None, :, 1]
    )
    return (width.clip(0) * height.clip(0)).sum(1)
