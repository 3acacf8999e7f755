"""Success rates in OGBench, chosen and reported on different episodes, and the critic's error."""
