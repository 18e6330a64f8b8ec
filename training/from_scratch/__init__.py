"""How a small model learns the tabletop without any pretrained part: a curriculum before the two stages.

A language model without training cannot read region embeddings, and an encoder without training cannot write them. So
the language model first learns over oracle features (embeddings of the regions' true attributes), the encoder learns
to classify attributes, the region extractor is aligned with the oracle features, and only then the two stages follow.
objectives.py lists what the recipe (configs/tabletop.yaml) names. Who starts from pretrained parts needs none of this.
"""
