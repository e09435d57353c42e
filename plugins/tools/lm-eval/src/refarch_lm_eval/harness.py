"""The harness's view of an adapted model, and tasks run on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch.errors import RunError, UsageError
from refarch.tasks import log_likelihoods
from refarch_lm_eval.tasks import Settings, line, quiet

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Texts of context and continuation (for the harness's cache), and their tokens."""
BOOTSTRAP = 1000
"""Samples for the standard error of metrics that have no formula for it, such as perplexity."""


class AdaptedLM(HFLM):
    """The harness's own interface to a transformers model, with likelihoods by refarch.

    The harness pads batches without a mask, which a causal model alone does not notice; a gate by example, or a module
    that works at the last tokens, would.

    Args:
        model: on its device, in evaluation mode. Attach adaptations afterwards: the harness ties the model's weights
            anew, which would undo a head that was trained apart from the embedding.
        tokenizer: the model's.
        batch_size: examples at a time.
        max_length: tokens that the model can read; found by the harness in its configuration when left out.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, max_length: int | None = None
    ) -> None:
        backend = "seq2seq" if model.config.is_encoder_decoder else "causal"
        with quiet():
            super().__init__(
                pretrained=model, tokenizer=tokenizer, backend=backend, batch_size=batch_size, max_length=max_length
            )

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The sum of log-probabilities of each continuation, and whether it is the likeliest one."""
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        with torch.no_grad():
            found = log_likelihoods(self.model, pairs, override_bs or self.batch_size, int(self.tokenizer.pad_token_id))
        answers = [(likelihood.total, likelihood.greedy) for likelihood in found]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """A context without the beginning that the model could not read."""
        if self.backend == "seq2seq":
            return context[-self.max_length :], continuation
        room = self.max_length + 1 - len(continuation)  # the last token is not read
        if room < 1:
            raise UsageError(
                f"a continuation of {len(continuation)} tokens is longer than the model can read ({self.max_length})",
                "choose another task, or raise --max-length",
            )
        return context[-room:], continuation


class Value(NamedTuple):
    """One metric of one task."""

    task: str
    metric: str
    filter: str
    value: float
    error: float | None
    """Its standard error, where the harness estimates it."""
    higher_is_better: bool | None
    examples: int
    few_shot: int | None


def evaluate(lm: AdaptedLM, tasks: Sequence[Any], settings: Settings) -> list[Value]:
    """Run tasks on a model.

    Raises:
        RunError: the harness or the model failed.
    """
    try:
        with quiet():
            results = lm_eval.simple_evaluate(
                model=lm,
                tasks=list(tasks),
                task_manager=TaskManager(include_defaults=False),
                num_fewshot=settings.few_shot,
                limit=settings.limit,
                apply_chat_template=settings.chat,
                batch_size=lm.batch_size,
                log_samples=False,
                bootstrap_iters=BOOTSTRAP,
                random_seed=settings.seed,
                numpy_random_seed=settings.seed,
                torch_random_seed=settings.seed,
                fewshot_random_seed=settings.seed,
            )
    except UsageError:
        raise
    except Exception as error:  # tasks bring code of their own
        raise RunError(
            f"the harness failed: {type(error).__name__}: {line(error)}",
            "a model with tokens at its inputs can read fewer of a text: set --max-length; --traceback shows where",
        ) from error
    return list(_values(results or {}))


def _values(results: dict[str, Any]) -> Iterator[Value]:
    for task, metrics in results.get("results", {}).items():
        for key, value in metrics.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = metrics.get(f"{metric}_stderr,{chosen}")
            yield Value(
                task=task,
                metric=metric,
                filter=chosen,
                value=float(value),
                error=float(error) if isinstance(error, (int, float)) else None,
                higher_is_better=results.get("higher_is_better", {}).get(task, {}).get(metric),
                examples=int(results.get("n-samples", {}).get(task, {}).get("effective", 0)),
                few_shot=results.get("n-shot", {}).get(task),
            )
