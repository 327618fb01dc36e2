"""Any model, many data sets: what a training and a service need beside the model itself."""
