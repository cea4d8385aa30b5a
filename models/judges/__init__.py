"""Judges of an interaction: did the person in the result do to the garment what the caption says?"""
