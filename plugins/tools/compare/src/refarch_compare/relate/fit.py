"""Effects and their uncertainty: a mixed model with backbone, task and configuration as groups."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from refarch.errors import UsageError
from refarch_compare.relate.confound import dummies
from refarch_compare.relate.design import Column, Design

ENOUGH = 5
"""Configurations that must be left over after every effect has taken one."""
RANDOM_FROM = 3
"""Labels from which on a group's intercepts are random; with fewer there is no spread of them to estimate."""

UNFIT = "the mixed model cannot be fitted to these rows"
CURE = "name fewer properties (--property), or add evidence"


class Estimate(NamedTuple):
    """One column's effect."""

    column: Column
    effect: float
    low: float
    high: float
    p: float


class Fit(NamedTuple):
    """All effects, and what was fitted."""

    estimates: tuple[Estimate, ...]
    model: str
    """In words."""
    freedom: int
    """Configurations left over: the degrees of freedom of the intervals."""


def fit(design: Design, columns: tuple[Column, ...], level: float = 0.95) -> Fit:
    """Estimate the effects of columns that are independent of each other.

    A property is one of a configuration, so seeds and tasks add rows but no further configurations: each configuration
    has an intercept of its own where it has several rows, and the intervals are Student's with the number of
    configurations left over.

    Raises:
        UsageError: too few configurations for so many effects.
    """
    configurations = len(set(design.configurations))
    freedom = configurations - len(columns) - 1
    if freedom < ENOUGH or not columns:
        raise UsageError(
            f"{configurations} configurations of techniques are too few to relate {len(columns)} properties to"
            f" {design.response!r}: {ENOUGH} more than effects are needed, and one for the mean",
            "add evidence of other techniques and configurations, or name fewer properties: --property NAME",
        )
    fixed, random = _groups(design)
    names = ["mean", *(column.name for column in columns)]
    matrix = np.column_stack([np.ones(len(design.y)), *(column.numbers for column in columns), *fixed])
    effects, errors = _mixed(design, matrix, random) if random else _least_squares(design, matrix)
    quantile = float(stats.t.ppf((1 + level) / 2, freedom))
    estimates = []
    for position, column in enumerate(columns, start=1):
        effect, error = float(effects[position]), float(errors[position])
        p = float(2 * stats.t.sf(abs(effect) / error, freedom)) if error > 0 else 1.0
        estimates.append(Estimate(column, effect, effect - quantile * error, effect + quantile * error, p))
    how = [f"a random intercept for each {name}" for name in random]
    how += [f"a fixed one for each {name}" for name in design.groups if name not in random]
    words = f"linear in {len(names) - 1} effects" + (", with " + " and ".join(how) if how else "")
    return Fit(tuple(estimates), words, freedom)


def _groups(design: Design) -> tuple[list[np.ndarray], dict[str, list[str]]]:
    """Columns of groups with few labels, and groups with enough labels for random intercepts."""
    fixed: list[np.ndarray] = []
    random: dict[str, list[str]] = {}
    for name, labels in design.groups.items():
        if len(set(labels)) >= RANDOM_FROM:
            random[name] = labels
        else:
            fixed += [dummy for dummy in dummies(labels) if _adds(dummy, fixed)]
    if len(set(design.configurations)) < len(design.y):
        random["configuration"] = design.configurations
    return fixed, random


def _adds(column: np.ndarray, others: list[np.ndarray]) -> bool:
    """Whether a column is not a combination of others and the mean."""
    before = np.column_stack([np.ones(len(column)), *others])
    return int(np.linalg.matrix_rank(np.column_stack([before, column]))) > int(np.linalg.matrix_rank(before))


def _mixed(design: Design, matrix: np.ndarray, random: dict[str, list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Fixed effects and their standard errors of a model with crossed random intercepts, by restricted likelihood."""
    from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

    scale = float(design.y.std()) or 1.0
    names, labels, members = list(random), [], []
    for values in random.values():
        every = sorted(set(values))
        labels.append([every])
        members.append([np.array([[float(value == one) for one in every] for value in values])])
    spec = VCSpec(names, labels, members)
    model = MixedLM(design.y / scale, matrix, groups=np.zeros(len(design.y)), exog_vc=spec, exog_re=None, use_sqrt=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a group without any spread of its own lies at the boundary: 0
            fitted = model.fit(reml=True, method=["lbfgs", "powell"])
    except np.linalg.LinAlgError:
        raise UsageError(UNFIT, CURE) from None
    effects, errors = np.asarray(fitted.fe_params) * scale, np.asarray(fitted.bse_fe) * scale
    if not (np.isfinite(effects).all() and np.isfinite(errors).all()):
        raise UsageError(UNFIT, CURE)
    return effects, errors


def _least_squares(design: Design, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Effects and their standard errors where every configuration has one row."""
    import statsmodels.api as sm

    fitted = sm.OLS(design.y, matrix).fit()
    return np.asarray(fitted.params), np.asarray(fitted.bse)
