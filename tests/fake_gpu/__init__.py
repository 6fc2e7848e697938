"""Packages `cuda` and `tensorrt` that stand in for a GPU: put this folder on PYTHONPATH, with
FAKE_GPU as the card's name. Only for processes of their own, so that no other test sees them.
"""
