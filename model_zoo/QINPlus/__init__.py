"""QIN+: what QIN needs to win on real data; the model is ``model_zoo.QINPlus.model.QINPlus``."""
