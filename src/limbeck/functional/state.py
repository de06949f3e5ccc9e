"""How far are the student's hidden states from the teacher's, token by token?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from limbeck.functional.check import paired
from limbeck.functional.kernel import kernel
from limbeck.functional.square_form import mean_of_squares


@kernel(per="position")
@paired
def state_squared_error(
    student: Float[Tensor, "*batch features"], teacher: Float[Tensor, "*batch features"]
) -> Float[Tensor, "*batch"]:
    """The mean squared difference of hidden states over their features, one value for each token.

    ``mean_i((h_i - t_i)^2)``, h of the student after its head and t of the teacher; 0 exactly where both are equal. Its
    mean is over the tokens that ``Batch.mask`` leaves, so that padding counts nothing, where `squared_error` takes an
    example's whole rectangle. In float32 it overflows for differences above 1e19.

    Args:
        student: Hidden states of the student.
        teacher: Hidden states of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> state_squared_error(torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 2.0]]]))
        tensor([[1., 2.]])

    Source: Jiao et al., TinyBERT, 2019, arXiv:1909.10351, equation 8.
    """
    return mean_of_squares(student, teacher, 1)
