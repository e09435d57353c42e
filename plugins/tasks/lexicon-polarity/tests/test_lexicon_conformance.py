"""The conformance kit for tasks."""

from refarch.testing import TaskConformance


class TestLexiconPolarity(TaskConformance):
    task = "lexicon-polarity"
