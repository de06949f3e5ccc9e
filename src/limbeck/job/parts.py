"""Which of the training data does a job learn from, and which does it keep for choices?"""

from __future__ import annotations

from limbeck.errors import LimbeckError
from limbeck.job.schema import Job
from limbeck.sources import DataSet, Examples, split, subsample


def learnt_and_held(job: Job, data: DataSet) -> tuple[Examples, Examples]:
    """The examples that a job's arms learn from, and its development data: the same ones whenever it is asked.

    Args:
        job: The job.
        data: Its data.

    Raises:
        LimbeckError: If there are fewer to learn from than `Job.train_examples` says, with what to type.
    """
    train, development = split(data.train, fraction=job.development, seed=0)
    if job.train_examples is None:
        return train, development
    if job.train_examples > len(train):
        raise LimbeckError(
            f"train_examples={job.train_examples}, and there are {len(train)} to learn from. "
            f"Type --set train_examples={len(train)} or fewer."
        )
    return subsample(train, job.train_examples, 0), development
