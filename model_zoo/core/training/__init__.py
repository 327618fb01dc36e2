"""What FuxiCTR's training loop lacks: precision, resuming, and doing nothing twice."""
