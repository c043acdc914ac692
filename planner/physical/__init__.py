"""The physical plan: which operators carry a statement out, chosen by estimated cost."""
