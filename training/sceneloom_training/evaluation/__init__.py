"""Evaluation by re-segmentation: how well a segmenter finds the label maps of synthesized pictures
(pix2pixHD, section 4.1, Table 1).

`evaluate.evaluate` is the protocol, `segmenter.load_segmenter` loads the segmenter, `sources` gives
the pictures, `report.write_evaluation` writes the result; docs/evaluation.md explains it. Importing
this package loads nothing heavy.
"""
