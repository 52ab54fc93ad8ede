"""What a model costs, and how that compares: time of each stage, memory, parameters, multiply-adds."""
