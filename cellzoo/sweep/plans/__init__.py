"""Plans: the jobs of a sweep, by a grid, by random draws or by Optuna."""
