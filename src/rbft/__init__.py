"""rbft: labelled clips and a video-language model in; a classifier, and numbers that say whether rationales helped, out."""

__version__ = "0.1.0"
