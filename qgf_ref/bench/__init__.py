"""How fast is a sampler? Contenders validated, then timed in turns, beside what the machine can do.

settings   what to measure; fresh networks of a given size
contenders our backends and the user's peers, as functions (obs, noise) → actions
validation each contender's actions against the float64 reference, before any timing
counts     FLOPs and weight bytes of a sampler: as stated, and as necessary
flop_count FLOPs of any agent's chunk and update, counted on the way
control    matrix products and memory reads, timed in the same rounds: the ceilings
measure    rounds A B A B …, medians and spread
memory     peak memory, in a process of its own
run        the whole, in a process bound to the cores that it may use
report     JSON, Markdown, text; roofline  the figure
"""
