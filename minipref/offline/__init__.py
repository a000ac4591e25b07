"""Methods that train on a fixed data set: one file a method, each of the same shape.

Equation and source, gradient; then in code margin, loss, gradient. All log-probabilities are in nats and, unless the equation
divides by a length, summed over the tokens of the response, EOS included, prompt and padding excluded. Nothing is averaged:
losses are per example, and every gradient is that of the sum of the losses.
"""
