"""Evaluation by re-segmentation: how well a segmenter finds the label maps of synthesized pictures
(pix2pixHD, section 4.1, Table 1); see docs/evaluation.md. Importing it loads nothing heavy.
"""
