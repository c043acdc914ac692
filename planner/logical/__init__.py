"""The logical plan: what a statement asks for, and the rules that rewrite it."""
