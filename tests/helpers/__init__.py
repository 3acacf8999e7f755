"""What several tests need: no test is in here, and no test imports another."""
