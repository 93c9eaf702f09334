"""The page of runs: their states and stages, resume and stop, curves, comparisons, samples and scores."""
