"""Measured efficiency: time, memory and loading relative to the frozen backbone, and how fast runs reach a score."""
