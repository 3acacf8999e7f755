"""The laboratory: each study of the paper, and what closed-form truth adds, one command each."""
