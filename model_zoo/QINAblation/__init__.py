"""QIN with parts exchanged one by one; the model is ``model_zoo.QINAblation.model.QINAblation``."""
