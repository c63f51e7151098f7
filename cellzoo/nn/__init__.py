"""What users build: layers of cells, how they start, and weights of other layouts."""
