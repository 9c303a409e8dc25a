"""The front door: from labelled texts to a classifier, with an estimate of how good it is that can be believed."""
