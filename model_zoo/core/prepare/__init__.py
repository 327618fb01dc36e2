"""From logs, vectors and metadata to the files of a data set."""
