"""What each command does, step by step; knows YAML, paths and logging."""
