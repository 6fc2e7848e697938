"""Evaluation by re-segmentation: how well a segmenter finds, in synthesized pictures, the label
maps that they were made from (pix2pixHD, section 4.1, Table 1).

`evaluate.evaluate` is the protocol, `segmenter.load_segmenter` loads what segments, `sources` says
where pictures come from, `report.write_evaluation` writes what was found; docs/evaluation.md says
how to read it. Importing this package loads nothing heavy.
"""
