"""Masks: their pixels, run lengths and pictures; how they are cleaned up and measured."""
