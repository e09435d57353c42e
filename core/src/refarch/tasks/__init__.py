"""What a task's author builds with: rows from tables, splits, prompts, and what a trained model is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy, names

if TYPE_CHECKING:
    from refarch.tasks.evaluation import (
        collect as collect,
        generate as generate,
        hear_batches as hear_batches,
        log_likelihoods as log_likelihoods,
        mean_loss as mean_loss,
    )
    from refarch.tasks.item_task import ItemTask as ItemTask
    from refarch.tasks.json_text import not_json as not_json, refuse_halves as refuse_halves
    from refarch.tasks.making import make_task as make_task
    from refarch.tasks.prompts import (
        IGNORED as IGNORED,
        TEXT_KINDS as TEXT_KINDS,
        Features as Features,
        Frame as Frame,
        Pair as Pair,
        PairCollator as PairCollator,
        TextKind as TextKind,
        check_template as check_template,
        encode_pairs as encode_pairs,
        end_token as end_token,
        fill as fill,
        frame as frame,
        pair_collator as pair_collator,
        pair_of as pair_of,
        prompt_room as prompt_room,
    )
    from refarch.tasks.sources import (
        SourceTables as SourceTables,
        load_dataset as load_dataset,
        read_source as read_source,
        require_unique as require_unique,
        shown as shown,
        text_of as text_of,
    )
    from refarch.tasks.splits import (
        Items as Items,
        Selectable as Selectable,
        make_splits as make_splits,
        parted as parted,
    )
    from refarch.tasks.tables import (
        Table as Table,
        read_bytes as read_bytes,
        read_rows as read_rows,
        read_text as read_text,
    )
    from refarch.tasks.task import Data as Data, Question as Question, Rows as Rows, Task as Task

_FROM = {
    "refarch.tasks.task": "Data Question Rows Task",
    "refarch.tasks.tables": "Table read_bytes read_rows read_text",
    "refarch.tasks.item_task": "ItemTask",
    "refarch.tasks.making": "make_task",
    "refarch.tasks.json_text": "not_json refuse_halves",
    "refarch.tasks.sources": "SourceTables load_dataset read_source require_unique shown text_of",
    "refarch.tasks.splits": "Items Selectable make_splits parted",
    "refarch.tasks.prompts": (
        "IGNORED TEXT_KINDS Features Frame Pair PairCollator TextKind check_template "
        "encode_pairs end_token fill frame pair_collator pair_of prompt_room"
    ),
    "refarch.tasks.evaluation": "collect generate hear_batches log_likelihoods mean_loss",
}
__all__ = names(_FROM)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # a type checker would take any name from a module with __getattr__

    def __getattr__(name: str) -> Any:
        return lazy(__name__, name, _FROM)
