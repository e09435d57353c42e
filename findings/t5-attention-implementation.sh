#!/usr/bin/env bash
# An attention function of one's own, set on a T5, is never called before transformers 5.20.
#
# Whoever joins attention (prefix tuning, adaption prompts, tiny attention) registers a function with
# AttentionInterface and names it by model.set_attn_implementation. Expected before running, for any release of
# transformers 5 whose T5 calls ALL_ATTENTION_FUNCTIONS: set_attn_implementation either raises or takes effect in all
# layers; so the function is called once a layer of attention, 2 + 2 * 2 = 6 times in a pass of this model.
#
# Seen with torch 2.13.0:
#   transformers 5.19.0: the model's configuration says 'counting', no error and no warning; called 0 times
#   transformers 5.20.0: the configuration says 'counting'; called 6 times
# Needs pip and a package index; installs into a temporary folder; exits 0 while that is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile torch==2.13.0 transformers==5.19.0
"$folder/venv/bin/pip" install -q --no-compile --no-deps --target "$folder/later" transformers==5.20.0

cat > "$folder/count.py" <<'PYTHON'
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, T5Config, T5ForConditionalGeneration
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

calls = []


def counting(module, query, key, value, attention_mask, **kwargs):
    calls.append(type(module).__name__)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register("counting", counting)
AttentionMaskInterface.register("counting", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
model = T5ForConditionalGeneration(
    T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0)
).eval()
model.set_attn_implementation("counting")
ids = torch.tensor([[5, 6, 7]])
with torch.no_grad():
    model(input_ids=ids, decoder_input_ids=ids)
print(transformers.__version__, model.config._attn_implementation, len(calls))
PYTHON

export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
earlier=$("$folder/venv/bin/python" "$folder/count.py")
later=$(PYTHONPATH="$folder/later" "$folder/venv/bin/python" "$folder/count.py")
printf '%s\n%s\n' "$earlier" "$later"
[ "$earlier" = "5.19.0 counting 0" ] && [ "$later" = "5.20.0 counting 6" ]
