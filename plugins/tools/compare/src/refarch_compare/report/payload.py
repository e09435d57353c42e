"""What the page's scripts know: results, settings, figures, properties and curves."""

from __future__ import annotations

import json

from refarch_compare.report.curves import curves
from refarch_compare.report.report import Report
from refarch_compare.report.results import varying


def payload(report: Report) -> str:
    """The data as JSON, which holds nothing that could end a script element."""
    settings = list(dict.fromkeys(result.setting for result in report.ordered))
    data = {
        "settings": [
            {
                "title": s.title,
                "problem": s.problem,
                "backbone": s.backbone,
                "metric": s.metric,
                "greater": s.greater_is_better,
                "origin": s.origin,
            }
            for s in settings
        ],
        "figures": [
            {"key": f"figure:{f.name}", "label": f.label, "unit": f.unit, "less": f.less}
            for f in report.results.figures
        ],
        "properties": varying(report.results.results),
        "results": [
            {
                "id": r.id,
                "name": r.name,
                "technique": r.technique,
                "settings": r.settings,
                "setting": settings.index(r.setting),
                "imported": r.setting.imported,
                "mean": r.interval.mean,
                "low": r.interval.low,
                "high": r.interval.high,
                "n": r.interval.n,
                "figures": r.figures,
                "properties": r.properties,
            }
            for r in report.ordered
        ],
        "curves": {
            r.id: [{"label": c.label, **c._asdict()} for c in found]
            for r in report.ordered
            if (found := curves(r.rows))
        },
    }
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
