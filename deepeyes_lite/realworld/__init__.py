"""The real world: public sets, served models, GPUs. Nothing here is needed for the tiny world."""
