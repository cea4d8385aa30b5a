"""A checkpoint of the lake as a folder that can be handed on: weights, model card and pictures."""
