"""LoRA against the conformance kit: as it is by default, and on every linear slot of a layer with other options."""

from refarch.testing import TechniqueConformance


class TestLora(TechniqueConformance):
    technique = "lora"


class TestLoraWithDropoutOnTheFeedForward(TechniqueConformance):
    technique = "lora"
    options = {"rank": 3, "dropout": 0.1, "preset": "rslora", "init": "orthogonal", "slots": ["ffn.up", "ffn.down"]}
    families = ("bert", "gpt2", "llama", "t5")
