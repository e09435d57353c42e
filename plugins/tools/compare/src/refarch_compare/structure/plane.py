"""Structures in a plane and in a tree: multidimensional scaling and hierarchical clustering of their distances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

Matrix = NDArray[np.float64]
STEPS = 300


class Plane(NamedTuple):
    """Points whose distances are as near to the given ones as a plane allows."""

    points: Matrix
    """[n, 2]"""
    stress: float
    """Kruskal's stress 1: 0 where the plane shows the distances exactly."""


def plane(distances: Matrix) -> Plane:
    """Metric multidimensional scaling by majorisation (SMACOF), from the classical solution; no random start.

    Args:
        distances: [n, n], symmetric, zero on the diagonal.
    """
    count = len(distances)
    points = _classical(distances)
    for _ in range(STEPS if count > 2 else 0):
        apart = _apart(points)
        ratio = np.divide(distances, apart, out=np.zeros_like(apart), where=apart > 1e-12)
        guttman = np.diag(ratio.sum(axis=1)) - ratio
        points = guttman @ points / count  # the Guttman transform for equal weights
    apart = _apart(points)
    total = float((apart**2).sum())
    stress = float(np.sqrt(((apart - distances) ** 2).sum() / total)) if total else 0.0
    return Plane(points, stress)


def _classical(distances: Matrix) -> Matrix:
    """Torgerson's scaling: the two largest eigenvectors of the doubly centred squares."""
    count = len(distances)
    centre = np.eye(count) - np.full((count, count), 1.0 / count)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    points = np.zeros((count, 2))
    for axis, column in enumerate(range(count - 1, max(count - 3, -1), -1)):
        vector = vectors[:, column]
        sign = np.sign(vector[np.abs(vector).argmax()])  # an eigenvector's sign is arbitrary
        points[:, axis] = vector * sign * np.sqrt(max(values[column], 0.0))
    return points


def _apart(points: Matrix) -> Matrix:
    apart: Matrix = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    return apart


class Tree(NamedTuple):
    """A hierarchical clustering."""

    order: list[int]
    """The leaves as they are drawn, like beside like."""
    joins: list[tuple[float, float, float, float, float]]
    """Of each join from the bottom up: the heights of its two sides, where they stand (in leaves), its own height."""
    groups: list[int]
    """The group that each structure belongs to when the tree is cut, from 0 in the order of the leaves."""


def tree(distances: Matrix, cut: float) -> Tree:
    """Average-linkage clustering.

    Args:
        distances: [n, n].
        cut: structures that are joined below this height are one group.
    """
    count = len(distances)
    if count < 2:
        return Tree(list(range(count)), [], [0] * count)
    links = hierarchy.linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    order = [int(leaf) for leaf in hierarchy.leaves_list(links)]
    place = {leaf: float(position) for position, leaf in enumerate(order)}
    height = dict.fromkeys(range(count), 0.0)
    joins = []
    for number, (left, right, joined, _) in enumerate(links, start=count):
        a, b = int(left), int(right)
        joins.append((height[a], height[b], place[a], place[b], float(joined)))
        place[number], height[number] = (place[a] + place[b]) / 2, float(joined)
    labels = hierarchy.fcluster(links, cut, "distance")
    names = list(dict.fromkeys(int(labels[leaf]) for leaf in order))
    return Tree(order, joins, [names.index(int(label)) for label in labels])
