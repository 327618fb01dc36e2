"""A search for settings that one leaves running: trials, their records, a ranking of them."""
