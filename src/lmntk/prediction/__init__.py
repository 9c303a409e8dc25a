"""prediction/: solved models that classify any number of texts in one pass each, without a kernel."""
