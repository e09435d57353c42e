"""Loading one more module costs the same, however many are there; tests/benchmarks/loading.py has the figures."""

import statistics
import time

import pytest
import torch

import refarch
from refarch.testing import all_tiny, outputs, randomise

COUNT, WINDOW = 120, 20


CASES = ["lora", "lora and head", "dora", "prefix-tuning", "prompt-tuning", "bitfit and head"]


@pytest.mark.parametrize("case", CASES)
def test_the_last_of_many_loads_as_fast_as_the_first(case, tmp_path):
    tiny = next(tiny for tiny in all_tiny(["bert"]) if tiny.auto_class == "AutoModelForSequenceClassification")
    model = tiny.model()
    batch = tiny.batch(model)
    technique, _, head = case.partition(" and ")
    adaptation = refarch.attach(model, technique, train_head=bool(head))
    randomise(adaptation)
    expected = outputs(model, batch)
    adaptation.save(tmp_path)
    adaptation.detach()
    refarch.load(model, tmp_path).detach()  # whatever is only done once in a process
    spent = []
    for _ in range(COUNT):
        began = time.process_time()
        loaded = refarch.load(model, tmp_path)
        spent.append(time.process_time() - began)
        loaded.enabled = False
    first, last = statistics.median(spent[:WINDOW]), statistics.median(spent[-WINDOW:])
    assert last <= 2 * first, f"the last loads take {last / first:.1f} times as long as the first"
    loaded.enabled = True  # and it is what was saved, for all that lies beneath it
    torch.testing.assert_close(outputs(model, batch), expected, rtol=1e-5, atol=1e-5)
    for each in reversed(refarch.adaptations(model)):
        each.detach()
    assert not refarch.adaptations(model)
