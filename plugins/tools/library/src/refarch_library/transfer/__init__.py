"""Modules on other backbones and on other tasks."""
