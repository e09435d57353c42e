"""The commands of ``refarch library``."""
