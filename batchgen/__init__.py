"""Grow single-turn question/answer/correction triples into dialogues over the providers' batch APIs."""

__version__ = "1.0.0"
