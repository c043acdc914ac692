"""Print plans, for PLAN and PLAN ANALYZE."""
