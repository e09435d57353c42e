"""``refarch diagram``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("diagram")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--backbone", metavar="MODEL", help="A model plugin, family, folder, config.json, hub id or model type.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to; printed when left out.")
def command(names: tuple[str, ...], backbone: str | None, out: Path | None) -> None:
    """Draw a transformer layer with the modules of techniques in their slots, as SVG.

    Several techniques stand side by side. Positions, forms and colours follow from the specs: a parallel module stands
    beside what it is parallel to, a sequential one in the flow; the sign says how it joins. Without --backbone the
    layer is that of the slot vocabulary; with it, it is the backbone's own, with its norms where they stand, and a
    technique that does not exist there says why.

    NAME is a technique, with a preset or options if need be: adapter:pfeiffer, lora:slots=[ffn.up].

    \b
    Examples:
      refarch diagram lora adapter ia3 -o layer.svg
      refarch diagram prefix-tuning adapter:parallel --backbone t5 -o layer.svg
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    import logging

    from refarch import default_registry
    from refarch.files import write_text
    from refarch_compare import naming
    from refarch_compare.diagram.draw import diagram

    registry = default_registry()
    chosen = [naming.parse(name, registry) for name in names]
    config = None
    if backbone is not None:
        from refarch_inspect.names import meant

        meant(backbone, registry)
        from refarch_inspect.source import find_config  # loads torch

        logging.getLogger("transformers").setLevel(logging.ERROR)
        config = find_config(backbone, None, registry)
    drawn = diagram(chosen, config, registry)
    if out is None:
        click.echo(drawn, nl=False)
    else:
        write_text(out, drawn)
        click.echo(f"wrote {out}", err=True)
