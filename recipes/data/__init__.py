"""What the recipes train on: images, language corpora and labelled texts, found on disk or downloaded and checked."""
