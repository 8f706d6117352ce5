"""Losses put together: schedules, terms, objectives, expressions, recipes and the registry of recipes."""
