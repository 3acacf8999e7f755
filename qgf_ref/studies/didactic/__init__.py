"""The paper's one- and two-dimensional pictures, in closed form."""
