"""Cross-checks: is another implementation right, and if not, which mistake is in it?"""
