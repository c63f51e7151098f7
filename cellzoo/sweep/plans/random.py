"""The plan `random`: values drawn from intervals."""

import numpy as np

from cellzoo.sweep.plans.search import SearchPlan


class RandomPlan(SearchPlan):
    """A search that draws a value of each interval, by the search's seed and the trial's number."""

    def propose(self, study: int, trial: int) -> tuple[str, ...]:
        """Return the overrides of a trial's draws, which are the same for every study."""
        shares = np.random.default_rng([self.seed, trial]).random(len(self.intervals))
        pairs = zip(self.intervals, shares, strict=True)
        return tuple(interval.override(interval.at(share)) for interval, share in pairs)
