"""The search: pure, from (facts, history) to the next candidate."""
