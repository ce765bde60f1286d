"""The benchmarks: every figure is a ratio against something run beside it. ``python -m bench`` runs them."""
