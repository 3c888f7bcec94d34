"""The real world, for those with a GPU or a served model: public sets, benchmarks, engines, judges."""
