"""What deployment does to G: options of any estimator, each a wrapper round it."""
