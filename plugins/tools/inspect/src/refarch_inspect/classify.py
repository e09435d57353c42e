"""Which slot each module of one layer is: by what feeds what in a trace, with names as a second witness."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig

from refarch.architecture import SLOTS, parse_entry
from refarch_inspect.trace import Call, Node, Trace, is_norm

Confidence = Literal["high", "medium", "low", "none"]
NAMES = {
    "query": r"q|query|q_(proj|lin|attn)|query_proj|wq",
    "key": r"k|key|k_(proj|lin)|key_proj|wk",
    "value": r"v|value|v_(proj|lin)|value_proj|wv",
    "qkv": r"c_attn|query_key_value|w?qkv(_proj)?|in_proj|att_proj",
    "output": r"o|wo|out|o_proj|out_(proj|lin)|c_proj|dense",
    "up": r"up_proj|wi|wi_1|fc1|fc_in|c_fc|lin1|dense|dense_h_to_4h|ffn|w3|linear1|ff1",
    "gate": r"gate_proj|wi_0|w1|gate",
    "gate_up": r"gate_up_proj|wi|fc1",
    "down": r"down_proj|wo|fc2|fc_out|c_proj|lin2|dense|dense_4h_to_h|ffn_output|w2|linear2|ff2",
}
"""The last part of the path that the field's models often give such a projection."""


@dataclass(frozen=True)
class Finding:
    """One slot: where it was found, or why it was not."""

    stack: str
    slot: str
    entry: str | None
    confidence: Confidence
    reason: str


class Layer:
    """Finds the slots of one layer.

    Args:
        stack: ``encoder`` or ``decoder``.
        prefix: the layer's path in the base model.
        flow: a trace cut at linear layers.
        norms: a trace cut at norms too.
        config: the traced model's configuration: fused projections are divided by numbers that it has.
    """

    def __init__(self, stack: str, prefix: str, flow: Trace, norms: Trace, config: PretrainedConfig) -> None:
        self.config = config
        self.stack, self.prefix, self.flow, self.norm_flow = stack, f"{prefix}.", flow, norms
        self.linears = [node for path, node in flow.nodes.items() if path.startswith(self.prefix)]
        self.found: dict[str, Finding] = {}
        self.placed: dict[str, str] = {}
        """For a norm's slot: ``before``, ``inside`` (before the residual is added) or ``after`` its sublayer; or
        ``shared``, if the sublayer reads attention's."""
        self.parallel = False
        """Whether attention and the feed-forward sublayer run side by side."""
        self.used: set[str] = set()

    def classify(self) -> dict[str, Finding]:
        """All slots of the layer by name."""
        calls = [call for call in self.flow.calls if f"{call.path}.".startswith(self.prefix)]
        for call in calls:
            kind = "attention" if call.query.shape[2] == call.key.shape[2] else "cross_attention"
            if f"{kind}.key_value" in self.found:
                self._miss(f"{kind}.key_value", f"{kind} is computed more than once a layer; the first was taken")
                continue
            self._attention(kind, call)
        if not calls:
            self._attention_without_calls()
        self._ffn()
        for kind, first, last in (
            ("attention", "query", "output"),
            ("cross_attention", "query", "output"),
            ("ffn", "up", "down"),
        ):
            if f"{kind}.{first}" in self.found:
                self._norm(kind, f"{kind}.{first}", f"{kind}.{last}")
        for call in (call for call in self.norm_flow.calls if f"{call.path}.".startswith(self.prefix)):
            self._inner_norms("attention" if call.query.shape[2] == call.key.shape[2] else "cross_attention", call)
        return self.found

    def _inner_norms(self, kind: str, call: Call) -> None:
        """Norms of queries and keys, between the projection and attention."""
        for part, target in (("query", call.query), ("key", call.key)):
            fed = [p for p in self.norm_flow.sources(target) if is_norm(self.norm_flow.nodes[p].module)]
            slot = f"{kind}.{part}_norm"
            if len(fed) == 1 and fed[0].startswith(self.prefix) and slot in SLOTS:
                self._put(slot, fed[0], "high", f"attention gets its output as {part}")

    def whole_ffn(self, path: str) -> None:
        """Take a module for the feed-forward sublayer as a whole, where its projections are out of reach."""
        self._put("ffn", path, "medium", "the module of the layer that holds the experts")
        read = self.norm_flow.ran[path][1]
        norms = [p for p in self.norm_flow.sources(read) if is_norm(self.norm_flow.nodes[p].module)]
        if len(norms) == 1 and norms[0].startswith(self.prefix):
            self.placed["ffn.norm"] = "before"
            self.found.pop("ffn.norm", None)
            self._put("ffn.norm", norms[0], "high", "ffn reads it")

    def _attention(self, kind: str, call: Call) -> None:
        self._put(
            f"{kind}.key_value", call.path, "high", "it calls the attention function"
            + (", with fewer queries than keys" if kind != "attention" else ""),
        )  # fmt: skip
        for part, target in (("query", call.query), ("key", call.key), ("value", call.value)):
            fed = {p: g for p, g in self.flow.sources(target).items() if p.startswith(self.prefix)}
            if len(fed) != 1:
                what = f"fed by {len(fed)} linear layers{': ' if fed else ''}{', '.join(map(self._short, fed))}"
                self._miss(f"{kind}.{part}", f"what attention gets as {part} is {what}, not by one")
                continue
            ((path, gradient),) = fed.items()
            self._projection(f"{kind}.{part}", part, path, gradient, f"what attention gets as {part} comes from it")
        readers = [node for node in self.linears if self.flow.reads_call(node.read, call)]
        self._one_of(f"{kind}.output", "output", readers, "it reads what attention returns")

    def _projection(self, slot: str, part: str, path: str, gradient: Tensor, reason: str) -> None:
        """A linear layer, or the columns of a fused one that a gradient reached."""
        self.used.add(path)
        columns = gradient.reshape(-1, gradient.shape[-1]).abs().amax(dim=0) > 0
        if bool(columns.all()):
            self._named(slot, part, path, path, reason)
            return
        part_text = which_part(columns, self.config)
        if part_text:
            entry = f"{path}[{part_text}]"
            self._named(slot, "qkv", entry, path, f"{reason}: {int(columns.sum())} of its {len(columns)} columns")
        else:
            what = f"{int(columns.sum())} of {len(columns)} columns of {self._short(path)}"
            self._miss(slot, f"it is {what}, which are none of the parts that a table entry can name")

    def _attention_without_calls(self) -> None:
        """Attention that is written out in the model: found by which projection mixes tokens, and how."""
        for node in self.linears:
            fed = {p: g for p, g in self.flow.sources(node.read).items() if p.startswith(self.prefix)}
            mixing = {path for path in fed if self._mixes(node, path)}
            if not mixing or not 1 <= len(fed) <= 3:
                continue
            why = "attention is written out in the model, not called through transformers' interface"
            self._miss("attention.key_value", why)
            self.used |= {node.path, *fed}
            if len(fed) < 3:
                why = f"{', '.join(map(self._short, fed))} is fused, and what happens to its parts is written out"
                for part in ("query", "key", "value"):
                    self._miss(f"attention.{part}", why)
                self._miss("attention.output", f"perhaps {self._short(node.path)}, which reads a mixture of tokens")
                return
            self._named("attention.output", "output", node.path, node.path, "it reads a mixture of projected tokens")
            for path, gradient in fed.items():
                if path not in mixing:
                    part, how = "query", "the mixture at a token depends on its output at that token alone"
                elif self._is_linear_in(node, path):
                    part, how = "value", "the mixture is linear in its output"
                else:
                    part, how = "key", "the mixture depends on its output at all tokens, and not linearly"
                self._projection(f"attention.{part}", part, path, gradient, how)
            return
        self._miss("attention.key_value", "no attention was seen: no call of the interface, no mixture of tokens")

    def _mixes(self, node: Node, source: str) -> bool:
        """Whether what a node reads at the last token depends on a source's output at other tokens."""
        gradient = self._last(node, source)[1]
        return gradient is not None and bool(gradient[:, :-1].any())

    def _is_linear_in(self, node: Node, source: str) -> bool:
        value, gradient = self._last(node, source)
        if gradient is None:
            return False
        inner = (gradient * self.flow.nodes[source].leaf).sum()
        return bool(torch.isclose(inner, value, rtol=1e-3, atol=1e-4))

    def _last(self, node: Node, source: str) -> tuple[Tensor, Tensor | None]:
        generator = torch.Generator().manual_seed(0)
        last = node.read[:, -1]
        value = (last * torch.randn(last.shape, generator=generator)).sum()
        leaf = self.flow.nodes[source].leaf
        (gradient,) = torch.autograd.grad(value, [leaf], retain_graph=True, allow_unused=True)
        return value.detach(), gradient

    def _ffn(self) -> None:
        left = {node.path: node for node in self.linears if node.path not in self.used}
        fed = {
            path: {p: g for p, g in self.flow.sources(node.read).items() if p in left} for path, node in left.items()
        }
        inner = {p for sources in fed.values() for p in sources}
        downs = [path for path, sources in fed.items() if sources and path not in inner]
        if len(downs) != 1:
            why = "no linear layer reads what another one of the layer projects up" if not downs else (
                f"there are {len(downs)} feed-forward paths: {', '.join(map(self._short, downs))}"
            )  # fmt: skip
            self._miss("ffn.down", why)
            return
        down = left[downs[0]]
        self._named("ffn.down", "down", down.path, down.path, "the last projection that reads other projections only")
        self.used.add(down.path)
        sources = sorted(fed[down.path], key=lambda path: left[path].order)
        self.used.update(sources)
        width = down.read.shape[-1]
        if len(sources) == 1 and left[sources[0]].leaf.shape[-1] == 2 * width:
            self._fused_gate(down, sources[0])
        elif len(sources) == 1:
            self._named("ffn.up", "up", sources[0], sources[0], "what the last projection reads is computed from it")
        elif len(sources) == 2:
            self._gate_and_up(down, sources)
        else:
            self._miss(
                "ffn.up", f"{len(sources)} projections feed the last one: {', '.join(map(self._short, sources))}"
            )

    def _gate_and_up(self, down: Node, sources: list[str]) -> None:
        linear = [self._scales(down, path, slice(None)) for path in sources]
        if linear[0] == linear[1]:
            self._miss("ffn.up", f"{' and '.join(map(self._short, sources))}: neither is told apart by an activation")
            return
        up, gate = (sources[0], sources[1]) if linear[0] else (sources[1], sources[0])
        self._named("ffn.up", "up", up, up, "what the last projection reads is linear in it: the gated one")
        self._named("ffn.gate", "gate", gate, gate, "it passes through the activation and multiplies the other")

    def _fused_gate(self, down: Node, path: str) -> None:
        width = down.read.shape[-1]
        linear = [self._scales(down, path, slice(i * width, (i + 1) * width)) for i in (0, 1)]
        if linear[0] == linear[1]:
            self._miss("ffn.up", f"the halves of {self._short(path)} are not told apart by an activation")
            return
        up = 0 if linear[0] else 1
        self._named("ffn.up", "gate_up", f"{path}[{up}/2]", path, "the half in which the hidden units are linear")
        self._named("ffn.gate", "gate_up", f"{path}[{1 - up}/2]", path, "the half that passes through the activation")

    def _scales(self, down: Node, path: str, columns: slice) -> bool:
        """Whether what ``down`` reads is, unit by unit, linear in these columns of a source."""
        leaf = self.flow.nodes[path].leaf
        (gradient,) = torch.autograd.grad(down.read.sum(), [leaf], retain_graph=True)
        product = (gradient * leaf)[..., columns]
        return product.shape == down.read.shape and torch.allclose(product, down.read, rtol=1e-3, atol=1e-5)

    def _norm(self, kind: str, first: str, last: str) -> None:
        slot, flow = f"{kind}.norm", self.norm_flow
        if self.found[first].entry is None:
            self._miss(slot, f"it is found by {first}, which was not")
            return
        own = {p for p in flow.nodes if p.startswith(self.prefix) and p not in self.flow.nodes}
        before = own & self._fed_by(first)
        style = self.placed.get("attention.norm")
        if before and style in (None, "before"):
            path = min(before)
            taken = [
                name for name, at in self.found.items() if name.endswith(".norm") and at.entry == self._short(path)
            ]
            if taken:
                self.parallel, self.placed[slot] = self.parallel or kind == "ffn", "shared"
                self._miss(slot, f"{self._short(path)} feeds it too, and is {taken[0]}: the sublayers run side by side")
                return
            self.placed[slot] = "before"
            output = self.found.get("attention.output")
            if kind == "ffn" and output and output.entry:
                self.parallel = self._path(output) not in self._fed_through_norms(path, own)
            self._put(slot, path, "high", f"{first} reads it" + (f" (so do not {len(before) - 1})" * (len(before) > 1)))
            return
        end = self.found.get(last)
        path_of_end = self._path(end) if end and end.entry else None
        after = [p for p in own if path_of_end in flow.sources(flow.nodes[p].read)] if path_of_end else []
        if len(after) == 1:
            alone = set(flow.sources(flow.nodes[after[0]].read)) == {path_of_end}
            self.placed[slot] = "inside" if alone else "after"
            what = f"{last} alone, before the residual is added" if alone else f"what {last} and the residual add up to"
            self._put(slot, after[0], "high", f"it reads {what}")
        elif style != "before" or own:
            self._miss(slot, f"no single norm of the layer reads {last} or feeds {first}")

    def _fed_through_norms(self, path: str, norms: set[str]) -> set[str]:
        """What feeds a norm, also through other norms: one after the sublayer before, for example."""
        found, left = set[str](), [path]
        while left:
            fed = set(self.norm_flow.sources(self.norm_flow.nodes[left.pop()].read)) - found
            found |= fed
            left += fed & norms
        return found

    def _fed_by(self, slot: str) -> set[str]:
        finding = self.found[slot]
        if not finding.entry:
            return set()
        return (
            self.norm_flow.sources(self.norm_flow.nodes[self._path(finding)].read).keys() & self.norm_flow.nodes.keys()
        )

    def _one_of(self, slot: str, part: str, nodes: list[Node], reason: str) -> None:
        if len(nodes) == 1:
            self.used.add(nodes[0].path)
            self._named(slot, part, nodes[0].path, nodes[0].path, reason)
        else:
            names = ", ".join(self._short(node.path) for node in nodes)
            self._miss(slot, f"{len(nodes)} linear layers read what attention returns{': ' if names else ''}{names}")

    def _named(self, slot: str, part: str, entry: str, path: str, reason: str) -> None:
        agrees = re.fullmatch(NAMES[part], path.rpartition(".")[2].lower()) is not None
        self._put(
            slot, entry, "high" if agrees else "medium", f"{reason}; its name {'agrees' if agrees else 'says nothing'}"
        )

    def _put(self, slot: str, path: str, confidence: Confidence, reason: str) -> None:
        self.found[slot] = Finding(self.stack, slot, self._short(path), confidence, reason)

    def _miss(self, slot: str, reason: str) -> None:
        self.found.setdefault(slot, Finding(self.stack, slot, None, "none", reason))

    def _short(self, path: str) -> str:
        return path.removeprefix(self.prefix)

    def _path(self, finding: Finding) -> str:
        return self.prefix + (finding.entry or "").partition("[")[0]


def which_part(columns: Tensor, config: PretrainedConfig) -> str:
    """How a table entry names these columns (a mask) of a fused projection: ``0/3``, ``1/3 per num_attention_heads``,
    ``0/num_attention_heads:num_key_value_heads:num_key_value_heads``; empty if it cannot.
    """
    heads, groups = "num_attention_heads", "num_key_value_heads"
    named = [name for name in (heads, groups) if isinstance(getattr(config, name, None), int)]
    candidates = (
        [(f"{heads}:{groups}:{groups}", "")] if groups in named else []
    )  # holds for other numbers of groups too
    candidates += [(str(of), "") for of in (2, 3, 4)]
    candidates += [(str(of), f" per {name}") for of in (2, 3) for name in named]
    for shares, per in candidates:
        for number in range(len(shares.split(":")) if ":" in shares else int(shares)):
            text = f"{number}/{shares}{per}"
            entry = parse_entry(f"x[{text}]").entries[0].part
            assert entry is not None
            part = entry.resolve(lambda name: int(getattr(config, name)))
            try:
                sizes = part.sizes(len(columns))
            except ValueError:
                continue
            group = torch.cat([torch.full((size,), i == number) for i, size in enumerate(sizes)])
            if torch.equal(group.repeat(part.groups), columns):
                return text
    return ""
