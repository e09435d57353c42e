"""The conformance kit for tasks."""

from refarch.testing import TaskConformance


class TestBBCNews(TaskConformance):
    task = "bbc-news"
    options = {"train_limit": 200}
