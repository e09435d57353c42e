"""Where names of before are now, as plain data: ``{old module: {new module: "name old=new"}}``.

A name that is called otherwise now is written ``old=new``. Sorted by the old module.
"""

MOVED: dict[str, dict[str, str]] = {
    "refarch.architecture.base": {
        "refarch.architecture.spec": "CONTRACT PlainData PlainValue S Spec as_tuples explain",
    },
    "refarch.architecture.expression": {
        "refarch.architecture.expression": "By=RoutedBy Node=AnyOperator",
    },
    "refarch.architecture.family": {
        "refarch.architecture.family": "Part=FusedPart",
    },
    "refarch.architecture.module": {
        "refarch.architecture.module_fields": "AtLeastOne Count Gate Identifier ImportPath Positions Router Scale",
    },
    "refarch.architecture.properties": {
        "refarch.architecture.properties": "Form=FunctionalForm Insertion=InsertionForm Integration=IntegrationForm",
        "refarch.architecture.rules": "RULES Rule check",
    },
    "refarch.cli.building": {
        "refarch.cli.pipeline_file": "CHOICE_FIELDS FORM apply build",
        "refarch.yaml_text": "Loader parse_yaml",
    },
    "refarch.cli.draft": {
        "refarch.cli.family_source": "COMMENTS WIDTH draft source",
    },
    "refarch.engine.adaptation": {
        "refarch.engine.adaptation.adaptation": "Adaptation",
        "refarch.engine.checkpoints.format": "Source",
        "refarch.engine.functions.core_techniques": "HEAD",
        "refarch.engine.host.attachment": "State",
    },
    "refarch.engine.attach": {
        "refarch.engine.adaptation.attach": "Technique attach",
        "refarch.engine.adaptation.load": "load",
    },
    "refarch.engine.attached": {
        "refarch.engine.adaptation.adaptation": "adaptations",
        "refarch.engine.host.container": (
            "Attached=Host RESERVED Tree compositions_with quiet=only_active refuse_part taken_names unused_name"
        ),
    },
    "refarch.engine.attending": {
        "refarch.engine.bindings.attention.self_attention": "AttendingBound=SelfAttentionBinding Seen",
    },
    "refarch.engine.attention": {
        "refarch.engine.bindings.attention.key_value": "KeyValueBound=KeyValueBinding",
        "refarch.engine.bindings.attention.seam": "PREFIX SUPPORTED attention_function install uninstall",
    },
    "refarch.engine.cache": {
        "refarch.engine.bindings.attention.own_cache": "OwnLayer remember",
        "refarch.engine.bindings.hooks": "find_cache",
    },
    "refarch.engine.checkpoint": {
        "refarch.engine.adaptation.load": (
            "SLACK check_base check_fits plan=planned resize start_from trusted_technique"
        ),
        "refarch.engine.checkpoints.description": "read_description",
        "refarch.engine.checkpoints.format": "Checkpoint FILE=ADAPTATION_FILE FORMAT",
        "refarch.engine.checkpoints.reading": "read",
    },
    "refarch.engine.compose": {
        "refarch.composition": (
            "Composition Finding Judgement combine compose compositions export judge load_composition to_low_rank"
        ),
    },
    "refarch.engine.compose.arithmetic": {
        "refarch.composition.weights.arithmetic": (
            "combined dropped ties trimmed truncated truncated_product weights_of"
        ),
    },
    "refarch.engine.compose.build": {
        "refarch.composition.running.build": "Builder names_in",
    },
    "refarch.engine.compose.combine": {
        "refarch.composition.combine": "combine evaluate put_away technique_of to_low_rank",
    },
    "refarch.engine.compose.combiners": {
        "refarch.composition.running.routes_and_fusions": "FuseNode Fusion LITTLE RouteNode Router=RouteGate",
    },
    "refarch.engine.compose.composition": {
        "refarch.composition.composition": "Composition KNOWN compositions",
    },
    "refarch.engine.compose.directions": {
        "refarch.composition.running.directions": "added effective first_direction",
    },
    "refarch.engine.compose.files": {
        "refarch.composition.files": "FILE FORMAT PARTS SavedComposition SavedPart read save",
        "refarch.composition.load": "load_composition",
    },
    "refarch.engine.compose.grouped": {
        "refarch.composition.running.gathered": "By=ByIndex Grouped=Gathered",
    },
    "refarch.engine.compose.judge": {
        "refarch.composition.judge": "Finding Judgement Verdict judge",
    },
    "refarch.engine.compose.made": {
        "refarch.composition.weights.result": "Made=WeightResult attach_made=attach_result",
    },
    "refarch.engine.compose.make": {
        "refarch.composition.compose": "compose",
    },
    "refarch.engine.compose.merging": {
        "refarch.composition.export": "export",
        "refarch.composition.merge": "merge merge_reasons=reasons",
    },
    "refarch.engine.compose.nodes": {
        "refarch.composition.running.nodes": "Contributions Inner=InnerMap Leaf Memo Node Several StackNode SumNode",
        "refarch.engine.bindings.weight_map": "Weights",
    },
    "refarch.engine.compose.parameters": {
        "refarch.composition.weights.parameters": "of_parameters",
    },
    "refarch.engine.compose.parts": {
        "refarch.composition.parts": "Part=PartLike Taken take=bring_parts",
    },
    "refarch.engine.compose.places": {
        "refarch.composition.running.places": "Group=PlaceGroup Place=BoundPlace find=places_of",
    },
    "refarch.engine.compose.rows": {
        "refarch.composition.running.rows": "Names Rows=BatchRows State=CallState",
    },
    "refarch.engine.compose.rules": {
        "refarch.composition.rules": "Obstacle Specs obstacles refuse_impossible",
        "refarch.composition.running.refusals": "refuse_asked_twice refuse_unreadable",
    },
    "refarch.engine.compose.split": {
        "refarch.composition.running.split": "SplitNode",
    },
    "refarch.engine.compose.tokens": {
        "refarch.composition.weights.tokens": "of_tokens",
    },
    "refarch.engine.compose.updates": {
        "refarch.composition.weights.updates": (
            "Update Updates is_low_rank low_rank slot_address updates weight_reasons workspace"
        ),
    },
    "refarch.engine.compose.weights": {
        "refarch.composition.weights.operators": "Parts=PartsByName make",
    },
    "refarch.engine.context": {
        "refarch.engine.bindings.call_context": (
            "Call=StackCall Checkpoint=CheckpointFunction Context=StackHooks Tokens=SiteTokens reads_encoder"
        ),
        "refarch.testing.checks.generation": "ahead_reason",
    },
    "refarch.engine.dispatch": {
        "refarch.engine.bindings.dispatch": "Dispatcher",
        "refarch.engine.bindings.seam": "Binding=LayerMap Group Inner arranged",
    },
    "refarch.engine.fingerprint": {
        "refarch.engine.host.fingerprint": "fingerprint originals",
    },
    "refarch.engine.function": {
        "refarch.engine.functions.function": "Attend Function SlotShape fold",
        "refarch.engine.functions.low_rank": "LowRank",
    },
    "refarch.engine.fused": {
        "refarch.engine.functions.low_rank": "FusedLowRank can_fuse",
        "refarch.engine.layers.precision": "autocasts",
    },
    "refarch.engine.gate": {
        "refarch.engine.functions.gate": "GateModule",
    },
    "refarch.engine.given": {
        "refarch.engine.functions.core_techniques": (
            "GIVEN=CORE_TECHNIQUES HERE KEYS_AND_VALUES KeysAndValues=PlainKeysAndValues LOW_RANK TOKENS "
            "Tokens=PlainTokens Update=PlainUpdate"
        ),
    },
    "refarch.engine.hook": {
        "refarch.engine.bindings.hooks": "Method=CopiedMethod",
    },
    "refarch.engine.inputs": {
        "refarch.engine.bindings.inputs": "InputsBound=InputsBinding InputsSeam",
    },
    "refarch.engine.integrate": {
        "refarch.engine.bindings.carrier": "Carrier",
        "refarch.engine.bindings.module": "Bound=ModuleBinding",
        "refarch.engine.bindings.weight_map": "changes_weights",
        "refarch.engine.layers.precision": "cast_for parameter_dtype",
    },
    "refarch.engine.ledger": {
        "refarch_compare.cost.ledger": "Kernels Ledger",
        "refarch_compare.storages": "Saved",
    },
    "refarch.engine.linear": {
        "refarch.engine.layers.linear": (
            "matrix part_rows plain_reason put_part read_weight take_part unreadable_reason widths write_weight"
        ),
    },
    "refarch.engine.merge": {
        "refarch.engine.adaptation.merge": "merge reasons unmerge",
        "refarch.engine.host.merged_weights": "Merged give_back",
    },
    "refarch.engine.origin": {
        "refarch.engine.checkpoints.provenance": "CORE auto_class import_paths labels source versions",
    },
    "refarch.engine.plan": {
        "refarch.engine.adaptation.plan": "Built Insertion Plan build read_shape seeded",
    },
    "refarch.engine.quantised": {
        "refarch.engine.bindings.gradients": "refuse_without_gradients",
        "refarch.engine.layers.quantised": (
            "dequantised free_order full_shape inner_tensors keep_order quantised quantised_as readable stored"
        ),
    },
    "refarch.engine.rates": {
        "refarch.engine.adaptation.training": "parameter_groups rescale scales=rates",
    },
    "refarch.engine.reading": {
        "refarch.engine.checkpoints.description": "logger read_description",
        "refarch.engine.checkpoints.format": (
            "Checkpoint FILE=ADAPTATION_FILE FORMAT JSON_LIMIT MIGRATIONS compare=refuse_differences migrated"
        ),
        "refarch.engine.checkpoints.reading": "read",
        "refarch.engine.checkpoints.tensor_files": "DTYPES MAGIC",
    },
    "refarch.engine.rotation": {
        "refarch.engine.functions.block_rotation": "BlockRotation",
    },
    "refarch.engine.routing": {
        "refarch.engine.functions.experts": "Routed RouterModule SPREAD mixture",
        "refarch.engine.functions.function": "own_parameters",
    },
    "refarch.engine.schedule": {
        "refarch.engine.adaptation.training": "after_step penalty",
        "refarch.engine.functions.schedule": "Schedule",
    },
    "refarch.engine.selection": {
        "refarch.engine.host.selection": (
            "Selected base_names commit own_modules refresh release reorder select selected take=put_copies"
        ),
    },
    "refarch.engine.sites": {
        "refarch.engine.slots.resolver": "Resolver find layer_paths submodule",
        "refarch.engine.slots.site": "Place Site",
    },
    "refarch.engine.states": {
        "refarch.engine.bindings.attention.call": "States=AttentionCall explicit_mask",
    },
    "refarch.engine.storage": {
        "refarch.engine.checkpoints.writing": "file_size",
    },
    "refarch.pipeline": {
        "refarch.tasks.task": "Data Rows Task",
    },
    "refarch.pipeline.evaluation": {
        "refarch.tasks.evaluation": (
            "Collator Hear Likelihood batches collect generate hear_batches in_order log_likelihoods mean_loss "
            "padded tokens"
        ),
    },
    "refarch.pipeline.files": {
        "refarch.tasks.tables": "SUFFIXES Table read_bytes read_rows read_text",
    },
    "refarch.pipeline.folder": {
        "refarch.pipeline.run_folder": "COMPLETE RunFolder differences environment new_folder versions",
    },
    "refarch.pipeline.json_text": {
        "refarch.tasks.json_text": "not_json parse_lines parse_list refuse_halves",
    },
    "refarch.pipeline.memory": {
        "refarch.pipeline.process_memory": "peak_memory reset_peak",
    },
    "refarch.pipeline.prompts": {
        "refarch.tasks.prompts": (
            "Features Frame IGNORED Pair PairCollator TEXT_KINDS TextKind check_template encode_pairs end_token "
            "fill frame logger pair_collator pair_of prompt_room"
        ),
    },
    "refarch.pipeline.resolve": {
        "refarch.pipeline.backbone": "backbone_kind load_backbone quiet",
        "refarch.pipeline.seeding": "seeds",
        "refarch.plugins.lookup": "configured locate resolve_pipeline",
    },
    "refarch.pipeline.run": {
        "refarch.pipeline.assembly": "Assembled assemble",
        "refarch.pipeline.record": "SPEEDS",
        "refarch.pipeline.runner": "run",
    },
    "refarch.pipeline.sources": {
        "refarch.tasks.sources": (
            "Reader SPLITS Source=SourceTables load_dataset logger read_source require_unique shown text_of"
        ),
    },
    "refarch.pipeline.splits": {
        "refarch.tasks.splits": "Items Parts=SplitIndices S Selectable T limit make_splits parted split",
    },
    "refarch.pipeline.task": {
        "refarch.tasks.task": "Data Question Rows Task",
    },
    "refarch.plugins.group": {
        "refarch.plugins.subcommands": "Part=Subcommand command_group",
    },
    "refarch.plugins.scan": {
        "refarch.plugins.discovery": "Found GROUPS Kind Settings Status scan",
    },
    "refarch.testing.report": {
        "refarch.testing.report": "Progress=HearResult",
    },
}

GONE: dict[str, dict[str, str]] = {
    "refarch.cli.building": {
        "read_file": "refarch.pipeline.read_mapping",
    },
    "refarch.engine.attention": {
        "group": "refarch.engine.bindings.attention.seam.AttentionSeam",
        "join": "refarch.engine.bindings.attention.seam.AttentionSeam",
        "leave": "refarch.engine.bindings.attention.seam.AttentionSeam",
        "tokens_at": "refarch.engine.bindings.attention.seam.AttentionSeam",
        "ungroup": "refarch.engine.bindings.attention.seam.AttentionSeam",
    },
    "refarch.engine.checkpoint": {
        "contents": "Adaptation.saved_state",
        "save": "Adaptation.save",
        "size": "Adaptation.saved_bytes",
    },
    "refarch.engine.merge": {
        "Kept": "refarch.engine.host.merged_weights.NewWeight",
        "commit": "Adaptation.commit",
        "copies_in_place": "refarch.engine.host.merged_weights.not_its_own",
        "keep": "refarch.engine.host.merged_weights.write_merged",
        "tied": "refarch.engine.host.merged_weights.not_its_own",
    },
    "refarch.engine.routing": {
        "own_functions": "Function.members",
    },
    "refarch.pipeline.prompts": {
        "encode_pair": "refarch.tasks.encode_pairs",
    },
}
"""``{old module: {name: what there is instead}}``, of what nothing can be an alias for."""
