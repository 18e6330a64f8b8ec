"""TensorRT: which library is here, graph → plan, a plan that runs, and the way from a model to it."""
