"""A check that assumes no straight lines: how much worse a forest predicts unseen configurations without a property."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refarch_compare.relate.design import Design

FOLDS, TREES, REPEATS = 5, 50, 3


class Importance(NamedTuple):
    """What a forest finds."""

    explained: float
    """R-squared on configurations that it was not trained on; at 0 or below it has learnt nothing that carries over."""
    loss: dict[str, tuple[float, float]]
    """Of each property: by how much shuffling it lowers that R-squared, and the spread over folds."""


def importance(design: Design, seed: int = 0) -> Importance | None:
    """Permutation importance over folds that keep each configuration whole; None with too few configurations."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import GroupKFold

    if len(set(design.configurations)) < 2 * FOLDS:
        return None
    named: dict[str, np.ndarray] = {name: _codes(values) for name, values in design.properties.items()}
    named |= {column.of: column.numbers for column in design.columns if not column.value}
    named |= {name: _codes(labels) for name, labels in design.groups.items()}
    data = np.column_stack(list(named.values()))
    predicted = np.zeros(len(design.y))
    losses: list[np.ndarray] = []
    for train, test in GroupKFold(FOLDS).split(data, groups=np.array(design.configurations)):
        forest = RandomForestRegressor(TREES, min_samples_leaf=2, random_state=seed).fit(data[train], design.y[train])
        predicted[test] = forest.predict(data[test])
        found = permutation_importance(
            forest, data[test], design.y[test], n_repeats=REPEATS, random_state=seed, scoring="neg_mean_squared_error"
        )
        losses.append(found.importances_mean / design.y.var())
    explained = 1 - float(((design.y - predicted) ** 2).sum() / ((design.y - design.y.mean()) ** 2).sum())
    table = np.array(losses)  # folds p
    spread = table.std(axis=0, ddof=1)
    loss = {name: (float(table[:, i].mean()), float(spread[i])) for i, name in enumerate(named)}
    return Importance(explained, dict(sorted(loss.items(), key=lambda item: -item[1][0])))


def _codes(values: list[str]) -> np.ndarray:
    return np.unique(np.array(values), return_inverse=True)[1].astype(float)
