"""Placeholder until the runner is written in the next step."""


def run() -> None:
    """Run."""
