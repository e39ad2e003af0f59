"""How the next step is chosen, from facts and history alone.

For every prefix of the ladder, shortest first, `build` makes the configuration that all its rungs
give together: rungs without numbers first, then the fits, in the order of the table in `fit`. The
first one that `predict` does not rule out, and that differs from what failed by a rung that cures
it, is the next candidate. Where vLLM can be asked for the length that fits, one rung more is
taken to ask. Then rungs are left out again, the one that gives up most first, wherever the others
do as well without it. What a trial measured replaces what was estimated (`calibrate`); what vLLM
rejected is withdrawn. The same facts and history always give the same step: neither clock nor I/O
takes part.
"""
