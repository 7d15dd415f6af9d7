"""The Hessian of a logsumexp times a vector."""

from crossent.kernels.compiler import kernel
from crossent.kernels.intrinsics import reordered_add


@kernel
def bend_rows(p, vector, factor, out):
    """Store factor_i p_ij (v_ij - sum_k p_ik v_ik) in out, for softmax outputs p.

    Taken relative to v of the winner, which may have all but nothing of p, nothing cancels.
    """
    for i in range(p.shape[0]):
        shares, v, bent = p[i], vector[i], out[i]
        winner = 0
        for j in range(shares.size):
            if shares[j] > shares[winner]:
                winner = j
        origin, mean = v[winner], 0.0
        for j in range(shares.size):
            mean = reordered_add(mean, shares[j] * (v[j] - origin))
        for j in range(shares.size):
            bent[j] = factor[i] * (shares[j] * ((v[j] - origin) - mean))
