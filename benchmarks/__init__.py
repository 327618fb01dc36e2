"""Runnable comparisons that print ratios against a plain baseline in the same run."""
