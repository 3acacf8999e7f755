"""Networks: parameters as dataclasses, forward, jvp and vjp in the inputs, gradients in the parameters."""
