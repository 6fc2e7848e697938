"""Evaluation by re-segmentation (pix2pixHD, section 4.1, Table 1): docs/evaluation.md."""
