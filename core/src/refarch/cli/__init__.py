"""The command line. One file a command; each loads its own heavy imports when it is invoked."""

from refarch.cli.app import cli, main

__all__ = ["cli", "main"]
