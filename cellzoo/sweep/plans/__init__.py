"""Which jobs a sweep has: a grid, random draws, or what Optuna proposes."""
