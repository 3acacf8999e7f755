"""Real-time chunking's guidance against the exact law of chunks that go on from a prefix."""
