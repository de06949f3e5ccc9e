"""Baselines that use no teacher."""
