"""The bank: mistakes that ports make, each a small, explicit variation of the reference."""
