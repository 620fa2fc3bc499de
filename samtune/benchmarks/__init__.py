"""What samtune costs, against the physical limit and against others: `python -m samtune.benchmarks NAME`.

Knows every other package, which none of them knows of it.
"""
