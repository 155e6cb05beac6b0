"""AMINet as people use it: the model, named configurations, fast modules, freezing, running it."""
