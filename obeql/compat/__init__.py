"""Captum's and MONAI's occlusion over OBEQL's operators: change one import, keep the numbers.

Comes after no statement and stores nothing: tensors and a live network go in, tensors come out.
"""
