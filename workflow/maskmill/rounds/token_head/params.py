"""Settings of the student token_head."""

from __future__ import annotations

from pydantic import Field

from maskmill.rounds._settings import Training


class Params(Training):
    """Settings of the token head and of its training."""

    dimensions: int = Field(64, ge=1, le=4096, description="principal components kept of each feature set")
    hidden: int = Field(64, ge=4, le=4096, description="channels of the head")
    layers: int = Field(2, ge=0, le=16, description="3x3 convolution blocks; 0 is a classifier of single tokens")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of input channels hidden from the head in training")
    steps: int = Field(400, ge=1, description="optimiser steps a round")
    batch_size: int = Field(16, ge=1, description="images a step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the cosine schedule")
    weight_decay: float = Field(0.05, ge=0, description="AdamW")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly over all classes")
    balance: float = Field(
        0.0, ge=0, le=1, description="class weights ~ frequency ** -balance; 0 counts every cell alike"
    )
    upsample: int = Field(4, ge=1, le=16, description="mask cells a token side, bilinear on logits")
    max_fit_points: int = Field(50_000, ge=2, description="tokens that standardisation and PCA are fitted on")
    cache_mib: int = Field(2048, ge=0, description="memory for aligned features; images beyond it are read again")
