"""Quadratic Interest Network for FuxiCTR; the model is ``model_zoo.QIN.model.QIN``."""
