"""The mathematics of all layers together: costs, energies, and the choice of ranks."""
