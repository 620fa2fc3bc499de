"""From the best trials to a figure that can be published: retrained with new seeds, tested once, beside a baseline."""
