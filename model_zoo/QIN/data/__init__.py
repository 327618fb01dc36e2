"""Files to checked tensors: from here on an item is an integer."""
