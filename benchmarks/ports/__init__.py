"""Public implementations of guided flow policies, run beside ours: none of their code is here."""

MODULES = ("lerobot", "kinetix", "fql")
