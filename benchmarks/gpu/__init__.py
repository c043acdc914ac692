"""What `scripts/gpu_check.py` runs: a module for each question, each step prints rows as it goes on."""
