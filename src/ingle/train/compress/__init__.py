"""Smaller models: quantisation after training and during it, and distillation.

`schemes` makes a decoder compute as if quantised, `int4` chooses 4-bit weights by calibration, `w8a8` shows that
pretending equals integer arithmetic, `distill` learns from a teacher; `compress` puts them together.
"""
