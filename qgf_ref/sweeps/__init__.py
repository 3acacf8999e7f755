"""Sweeps: tasks × agents × seeds as a graph of jobs, on one process, one machine or a cluster."""
