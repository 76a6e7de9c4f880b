"""genzoo: a zoo of generative models that says which is better, by how much, and whether the number can be trusted."""
