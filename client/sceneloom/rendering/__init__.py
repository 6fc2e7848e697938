"""Rendering whole data sets: sources of maps, a pipeline that keeps servers busy, sinks that hold
the pictures, and a manifest that knows what is done.
"""
