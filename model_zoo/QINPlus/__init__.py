"""QIN changed by what lifts it on real data; see ``model_zoo.QINPlus.model.QINPlus``."""
