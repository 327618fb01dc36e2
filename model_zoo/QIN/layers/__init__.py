"""QIN's layers: pure torch modules, usable without FuxiCTR."""

from model_zoo.core.layers import PooledEmbedding
from model_zoo.QIN.layers.attention import AdaptiveSparseTargetAttention
from model_zoo.QIN.layers.quadratic import QuadraticLayer, QuadraticNeuralNetwork

__all__ = [
    "AdaptiveSparseTargetAttention",
    "PooledEmbedding",
    "QuadraticLayer",
    "QuadraticNeuralNetwork",
]
