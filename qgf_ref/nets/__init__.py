"""Networks: parameters, forward, jvp and vjp in the inputs, gradients in the parameters."""
