"""Pretrained encoders: loaded, exported, brought into the form that is served, and kept between batches."""
