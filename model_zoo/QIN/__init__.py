"""Quadratic Interest Network for FuxiCTR; the model is ``model_zoo.QIN.model.QIN``."""

from model_zoo.QIN import moved

moved.install()
