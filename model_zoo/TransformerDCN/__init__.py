"""Transformer and DCNv2 for FuxiCTR; the model is ``model_zoo.TransformerDCN.model``."""
