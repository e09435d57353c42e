"""Which property values combine, and why others do not, as data (:data:`RULES`).

The validator of :class:`~refarch.architecture.module.ModuleSpec` applies it, and the documentation's matrix is
generated from it. A rule reads the fields alone, so that what has the rules' blessing can stand above them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from refarch.architecture.module_fields import ModuleFields
from refarch.architecture.properties import ADDITIVE


class Rule(NamedTuple):
    """One impossible combination of properties and the reason for it."""

    name: str
    violated: Callable[[ModuleFields], bool]
    reason: str


def _kinds(module: ModuleFields) -> set[str]:
    return {ref.slot.kind for ref in module.slot_refs()}


def _names(module: ModuleFields) -> set[str]:
    return {ref.slot.name for ref in module.slot_refs()}


def _is_attended(module: ModuleFields) -> bool:
    """Whether it is a gated addition of what the queries find in tokens of its own."""
    return module.integration == "gated addition" and _kinds(module) == {"key_value"}


def _is_gated_prefix(module: ModuleFields) -> bool:
    return module.gate is not None and module.integration == "concatenation" and _kinds(module) == {"key_value"}


def _is_selection(module: ModuleFields) -> bool:
    return module.integration == "selection"


RULES: tuple[Rule, ...] = (
    Rule(
        "each slot once",
        lambda m: len({ref[:2] for ref in m.slot_refs()}) < len(m.workspace),
        "a workspace is a set: it names each slot, by whichever of its names, once",
    ),
    Rule(
        "selection goes with selection",
        lambda m: (m.adapted == "selection") != _is_selection(m),
        "parameters adapted = selection and integration = selection are the two sides of one thing: existing weights"
        " trained in a copy. A module that adds or reparameterises joins by one of the other integration forms",
    ),
    Rule(
        "selection has no function",
        lambda m: _is_selection(m) and m.function is not None,
        "a selection trains existing parameters, so it has no function of its own; name the parameters in 'parameters'",
    ),
    Rule(
        "selection names parameters",
        lambda m: _is_selection(m) != bool(m.parameters),
        "a selection says which parameters it trains ('parameters': weight, bias or *); nothing else has that field",
    ),
    Rule(
        "selection trains at the learning rate",
        lambda m: _is_selection(m) and bool(m.learning_rate_scale),
        "a learning rate scale belongs to a parameter of a function, and a selection has none",
    ),
    Rule(
        "a schedule steers functions",
        lambda m: _is_selection(m) and m.schedule is not None,
        "a schedule changes functions between optimizer steps and keeps its state in them, and a selection has none",
    ),
    Rule(
        "everything else has a function",
        lambda m: not _is_selection(m) and m.function is None,
        "only a selection comes without a function; give the import path of the module, as in 'package.function:Name'",
    ),
    Rule(
        "selection of modules' parameters",
        lambda m: _is_selection(m) and bool(_kinds(m) & {"inputs", "key_value"}),
        "'inputs' and '*.key_value' are sequences and have no parameters of their own; select at the modules' slots",
    ),
    Rule(
        "concatenation at a sequence",
        lambda m: m.integration == "concatenation" and not _kinds(m) <= {"inputs", "key_value"},
        "concatenation adds tokens to a sequence, so its workspace is 'inputs' or '*.key_value'",
    ),
    Rule(
        "a sequence takes concatenation",
        lambda m: (
            m.integration not in ("concatenation", "selection")
            and bool(_kinds(m) & {"inputs", "key_value"})
            and not _is_attended(m)
        ),
        "'inputs' and '*.key_value' are sequences that take more tokens by concatenation ('*.key_value' alone also by a"
        " gated addition of attention over them); for another integration form choose a linear, norm, sublayer or layer"
        " slot",
    ),
    Rule(
        "gated attention over free tokens",
        lambda m: _is_attended(m) and not (m.form == "tokens" and m.input_type == "data" and m.insertion == "parallel"),
        "a gated addition at '*.key_value' adds attention over free tokens beside the base's: form = tokens, input type"
        " = data, insertion = parallel",
    ),
    Rule(
        "projected tokens are keys and values",
        lambda m: m.projected and not (m.form == "tokens" and _kinds(m) == {"key_value"}),
        "what the layer's own projections make keys and values of are tokens, and the workspace is '*.key_value' alone",
    ),
    Rule(
        "counted tokens stand before others",
        lambda m: (
            m.counted
            and not (
                m.integration == "concatenation" and {str(ref) for ref in m.slot_refs()} == {"attention.key_value"}
            )
        ),
        "position biases count tokens that are concatenated to the sequence itself: the workspace is"
        " 'attention.key_value' alone",
    ),
    Rule(
        "concatenation of free tokens",
        lambda m: m.integration == "concatenation" and not (m.form == "tokens" and m.input_type == "data"),
        "what is concatenated are free tokens: form = tokens, input type = data",
    ),
    Rule(
        "tokens are concatenated",
        lambda m: m.form == "tokens" and m.integration != "concatenation" and not _is_attended(m),
        "form = tokens makes new positions, which can only join by concatenation, or at '*.key_value' by a gated"
        " addition of attention over them",
    ),
    Rule(
        "concatenation is parallel",
        lambda m: m.integration == "concatenation" and m.insertion != "parallel",
        "added tokens stand beside the base's own and read nothing that the base computes: insertion = parallel",
    ),
    Rule(
        "transformation reads weights",
        lambda m: (m.integration == "transformation") != (m.input_type == "weights") and not _is_selection(m),
        "a transformation is a function of the base weight (input type = weights), and nothing else reads weights",
    ),
    Rule(
        "transformation at a linear slot",
        lambda m: m.integration == "transformation" and _kinds(m) != {"linear"},
        "a transformation replaces a weight matrix, so its workspace is linear slots",
    ),
    Rule(
        "transformation has no side",
        lambda m: m.integration == "transformation" and any(ref.side == "input" for ref in m.slot_refs()),
        "a transformation replaces the whole weight; name the slot without a side",
    ),
    Rule(
        "transformation reparameterises",
        lambda m: m.integration == "transformation" and m.adapted != "reparameterisation",
        "a transformed weight is a reparameterisation of the base weight",
    ),
    Rule(
        "rescaling by a vector",
        lambda m: m.integration == "rescaling" and not (m.form == "vector" and m.intra == "diagonal"),
        "rescaling multiplies each unit by one factor: form = vector, intra-connectivity = diagonal",
    ),
    Rule(
        "rescaling is sequential",
        lambda m: m.integration == "rescaling" and m.insertion != "sequential",
        "the factors multiply what the base has at the slot: insertion = sequential",
    ),
    Rule(
        "attention is dynamic",
        lambda m: m.form == "attention" and m.inter != "dynamic",
        "what positions find in each other depends on the input: form = attention, inter-connectivity = dynamic",
    ),
    Rule(
        "attention is added",
        lambda m: m.form == "attention" and m.integration not in ADDITIVE,
        "attention of a module's own yields hidden states, which can only be added to the base's",
    ),
    Rule(
        "attention at the self-attention sublayer",
        lambda m: m.form == "attention" and _names(m) != {"attention"},
        "which tokens see each other is known where the base attends to the same tokens: the sublayer 'attention'; at"
        " 'cross_attention' they are the encoder's, and 'ffn' or a single projection attends to nothing",
    ),
    Rule(
        "addition at an output",
        lambda m: m.integration in ADDITIVE and any(ref.side == "input" for ref in m.slot_refs()),
        "an added contribution joins at a slot's output; only rescaling and selection work at an input side",
    ),
    Rule(
        "addition reads hidden states",
        lambda m: m.integration in ADDITIVE and m.input_type != "hidden" and not _is_attended(m),
        "y + M(.) is a function of the hidden states at the slot: input type = hidden",
    ),
    Rule(
        "no parallel reading of token ids",
        lambda m: m.insertion == "parallel" and m.integration in ADDITIVE and "embedding" in _kinds(m),
        "what the embedding table reads are token ids, not hidden states; insert sequentially at 'embedding'",
    ),
    Rule(
        "only parameters of head and model",
        lambda m: not _is_selection(m) and bool(_kinds(m) & {"head", "model"}),
        "'head' and 'model' stand for whatever modules are there; they can be selected for training, not inserted into",
    ),
    Rule(
        "a gate belongs to gated addition",
        lambda m: (m.integration == "gated addition") != (m.gate is not None) and not _is_gated_prefix(m),
        "integration = gated addition and the field 'gate' come together; besides, a concatenation at '*.key_value' may"
        " have a gate, which multiplies its keys and values",
    ),
    Rule(
        "a gate of keys and values is of the example",
        lambda m: _is_gated_prefix(m) and m.gate is not None and (m.gate.by == "token" or m.gate.convex),
        "all queries of an example share the keys and values, and nothing stands for (1 - g) y in one softmax: a"
        " concatenation's gate is by = learned or example, and not convex",
    ),
    Rule(
        "real tokens are known in a stack",
        lambda m: m.asks_for_tokens and bool(_names(m) & {"embedding", "embedding_norm"}),
        "which tokens are real is known within a stack of layers: a gate by example, or a module at some positions,"
        " cannot work at 'embedding' or 'embedding_norm', before it begins",
    ),
    Rule(
        "some positions get an added contribution",
        lambda m: m.positions is not None and (m.integration not in ADDITIVE or "key_value" in _kinds(m)),
        "a contribution that is added at a module's output can be left out at other tokens; factors, weights and"
        " selected parameters are the same for all tokens, and keys and values are there for all queries",
    ),
    Rule(
        "an update of weights is at all positions",
        lambda m: m.positions is not None and m.adapted == "reparameterisation",
        "a weight is the same for all tokens, so what works at some of them stands for no update of it: parameters"
        " adapted = addition",
    ),
    Rule(
        "routing goes with a router",
        lambda m: (m.routing != "none") != (m.router is not None),
        "routing says how experts are mixed, the field 'router' how many there are and by what: give both or neither",
    ),
    Rule(
        "contributions and factors are routed",
        lambda m: (
            m.routing != "none"
            and (m.integration not in (*ADDITIVE, "rescaling") or m.form == "attention" or _is_attended(m))
        ),
        "experts are mixed position by position, which needs contributions that are added to hidden states, or factors"
        " that multiply them; tokens, weights and attention over other positions are none",
    ),
    Rule(
        "routing by input is dynamic",
        lambda m: m.routing in ("soft", "hard") and m.inter != "dynamic",
        "which experts act depends on the input: inter-connectivity = dynamic",
    ),
    Rule(
        "hard routing chooses some",
        lambda m: m.router is not None and (m.routing == "hard") != (m.router.top is not None),
        "hard routing says how many experts act ('top'); in soft and fixed routing all of them do",
    ),
    Rule(
        "weights of all experts sum to one",
        lambda m: (
            m.router is not None and not m.router.renormalise and (m.routing != "hard" or m.integration == "rescaling")
        ),
        "only the weights of chosen experts can sum to less than one (renormalise = false), and only where they are"
        " added: factors would shrink what they multiply",
    ),
    Rule(
        "sharing names what is shared",
        lambda m: (m.sharing != "none") != bool(m.shared),
        "sharing says how far, 'shared' says which parameters of the function: give both or neither",
    ),
    Rule(
        "reparameterisation is mergeable in form",
        lambda m: (
            m.adapted == "reparameterisation" and m.integration in ADDITIVE and m.form not in ("linear", "vector")
        ),
        "an additive reparameterisation stands for an update of existing weights, so its form is linear",
    ),
)
"""Every impossible combination, in the order in which it is checked."""


def check(fields: ModuleFields) -> None:
    """Apply :data:`RULES`.

    Raises:
        ValueError: with the reasons of all rules that are violated.
    """
    reasons = [f"{rule.reason} [{rule.name}]" for rule in RULES if rule.violated(fields)]
    if reasons:
        raise ValueError(f"module {fields.name!r}: " + "; ".join(reasons))
