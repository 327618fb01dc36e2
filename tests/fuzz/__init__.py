"""Random mutations of sound inputs: every command answers rightly or refuses with a message."""
