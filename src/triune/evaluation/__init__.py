"""Benchmarks: suites of questions with their declared wording, the numbers made from the answers, and files of predictions.

`triune.evaluate` lets a model answer samples, as training does; what is here decides which samples, and what is said
about the answers. Nothing here imports torch but `run`, when it loads a model.
"""
