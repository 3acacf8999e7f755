"""How far the guided actions are from the data."""
