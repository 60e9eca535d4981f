"""lm-eval tasks' definitions and data, without importing lm_eval."""
