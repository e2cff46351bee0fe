"""Ways from the backward passes of T tasks to the Gram matrix of a parameter's T gradients, and to their weighted sum.

By gradient: the gradients themselves are held. By output: the weight gradient of a linear layer is G_i = D_i^T A, with
its input A [N, f] and the gradient D_i [N, d] of task i's loss with respect to its output. So
<G_i, G_j> = <D_i, (A A^T) D_j>, which needs no G_i, and any weighted sum of the G_i is one product,
(sum_i w_i D_i)^T A. A convolution is a linear layer on patches, an embedding one on one-hot rows. N counts all rows of
the batch, so this pays where N is smaller than the weight: late convolutions, wide layers at small batches, embeddings.
"""
